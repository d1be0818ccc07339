"""In which steps the Gramian of a network's tasks is computed, and each layer in which way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from libmtl_recon.gradients import columns
from libmtl_recon.gradients.calls import Call, Calls
from libmtl_recon.gradients.dominators import Walk, edges_below
from libmtl_recon.gradients.ways import Way, costs, free_memory, whole_pass

WAYS = ("auto", "stored", "ghost")
# The share of the free memory above which rows are not stored.
_SHARE = 0.25
# By how much more memory than the least a plan with fewer segments may take, and what share of the
# rows counts as nothing.
_MORE, _NOTHING = 1.25, 0.02
# The layer of shared parameters that are not the network's.
_OUTSIDE = "(outside of the network)"


@dataclass
class Segment:
    """A part of the graph between two cuts.

    Attributes:
        start: Where it begins; None: at the losses.
        end: Where the next one begins; None: with the last.
        tasks: The places of the tasks that reach it.
        calls: Of layers whose products are taken.
        parameters: Shared ones whose rows are computed.
    """

    start: GradientEdge | None
    end: GradientEdge | None
    tasks: list[int]
    calls: list[Call] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)


@dataclass
class Plan:
    """How the Gramian is computed.

    Attributes:
        segments: In the order of the backward passes.
        walk: What the losses reach.
        shared: The shared parameters that they reach, with their layers' names, in network order.
        specific: Those of one task, or not to be held shared: with the tasks that reach them.
        stored: Whether all rows are kept for the update.
        ways: How each layer is computed.
        calls: Of each weight whose products are taken, by its identity.
    """

    segments: list[Segment]
    walk: Walk
    shared: list[tuple[str, Tensor]]
    specific: list[tuple[Tensor, list[int]]]
    stored: bool
    ways: list[Way]
    calls: dict[int, list[Call]]

    @property
    def numbers(self) -> int:
        """How many numbers per task the gradients of all shared parameters are."""
        return sum(columns.width(leaf) for _, leaf in self.shared)

    @property
    def held(self) -> int:
        """How many of them are held at a time."""
        if self.stored:
            return self.numbers
        return max(sum(map(columns.width, one.parameters)) for one in self.segments)


def make_plan(
    losses: Sequence[Node | None],
    calls: Calls,
    names: Mapping[int, str],
    shared: Iterable[Tensor] | None,
    way: str,
) -> Plan:
    """Plan the computation for T losses.

    Args:
        losses: Their nodes; None for a loss without a graph.
        calls: What the forward passes called.
        names: The layers' names, by the identities of the network's parameters.
        shared: The shared parameters; None: those of the network that two losses reach.
        way: One of :data:`WAYS`.
    """
    wanted = None if shared is None else {id(parameter) for parameter in shared}
    groups, reasons = _candidates(calls, names, wanted)
    if way == "stored":
        groups, reasons = {}, {}
    candidates = _nodes(groups)
    walk = _walk(losses, groups)
    _leave_out_other_uses(groups, reasons, walk)
    saved = _leave_out_dear_ones(groups, reasons, walk, alone_is_shared=wanted is not None)
    if way == "auto" and groups:
        noted = list(calls.calls.values())
        if saved <= whole_pass(noted, noted[0].inputs.device.type):
            reasons |= dict.fromkeys(
                (own[0].name for own in groups.values()),
                "what products would save is less than the pass that the update would need",
            )
            groups = {}
    if _nodes(groups) != candidates:
        walk = _walk(losses, groups)
    return _planned(walk, calls, groups, names, wanted, way, reasons)


def _nodes(groups: Mapping[int, Sequence[Call]]) -> set[Node]:
    return {call.node for own in groups.values() for call in own}


def _leave_out_other_uses(
    groups: dict[int, list[Call]], reasons: dict[str, str], walk: Walk
) -> None:
    """Leave out weights that are reached although the walk goes around their calls."""
    reached = {id(leaf) for _, leaf in walk.leaves()}
    for weight, own in list(groups.items()):
        used = {id(p) for call in own for p in call.module._parameters.values()}
        if not used.isdisjoint(reached):
            reasons[own[0].name] = "used outside of its module, too"
            del groups[weight]


def _leave_out_dear_ones(
    groups: dict[int, list[Call]], reasons: dict[str, str], walk: Walk, *, alone_is_shared: bool
) -> float:
    """Leave out weights whose rows cost less; what the products of the others save."""
    saved = 0.0
    for weight, own in list(groups.items()):
        reached = [(call, walk.tasks_of(call.node)) for call in own]
        groups[weight] = [call for call, tasks in reached if tasks]
        tasks = {task for _, some in reached for task in some}
        if len(tasks) < (1 if alone_is_shared else 2):
            del groups[weight]
            continue
        there = [(call, len(some)) for call, some in reached if some]
        cost = costs(there, own[0].inputs.device.type)
        if cost.products >= cost.rows:
            reasons[own[0].name] = f"products would take {cost.products / cost.rows:.3g} times it"
            del groups[weight]
        else:
            saved += cost.rows - cost.products
            reasons[own[0].name] = f"rows would take {cost.rows / cost.products:.3g} times it"
    return saved


def _candidates(
    calls: Calls, names: Mapping[int, str], wanted: set[int] | None
) -> tuple[dict[int, list[Call]], dict[str, str]]:
    """The calls by their weights' identities, and of the other layers why not."""
    groups: dict[int, list[Call]] = {}
    reasons: dict[str, str] = {}
    weights_of: dict[int, set[int]] = {}  # by the biases that go with them
    for call in calls.calls.values():
        parameters = [p for p in call.module._parameters.values() if p is not None]
        weight = call.module._parameters["weight"]
        assert weight is not None
        for parameter in parameters:
            weights_of.setdefault(id(parameter), set()).add(id(weight))
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in parameters):
            reasons[call.name] = "its parameters have hooks"
        elif any(id(p) not in names for p in parameters) or (
            wanted is not None and any(id(p) not in wanted for p in parameters)
        ):
            reasons[call.name] = "not all of its parameters are shared"
        elif weight.requires_grad:
            groups.setdefault(id(weight), []).append(call)
    for several in weights_of.values():
        for identity in several if len(several) > 1 else ():
            for call in groups.pop(identity, []):
                reasons[call.name] = "its bias goes with several weights"
    return groups, reasons


def _walk(losses: Sequence[Node | None], groups: Mapping[int, list[Call]]) -> Walk:
    """The walk that goes around the calls, from their outputs to their inputs."""
    around = {call.node: call.below for own in groups.values() for call in own}

    def below(node: Node) -> Iterable[GradientEdge]:
        if node not in around:
            return edges_below(node)
        edge = around[node]
        return () if edge is None else (edge,)

    return Walk(losses, below)


def _planned(
    walk: Walk,
    calls: Calls,
    groups: dict[int, list[Call]],
    names: Mapping[int, str],
    wanted: set[int] | None,
    way: str,
    reasons: Mapping[str, str],
) -> Plan:
    direct: list[tuple[Node, Tensor]] = []
    specific: list[tuple[Tensor, list[int]]] = []
    for node, leaf in walk.leaves():
        tasks = walk.tasks_of(node)
        if wanted is None:
            shared = id(leaf) in names and (len(tasks) > 1 or walk.losses == 1)
        else:
            shared = id(leaf) in wanted
        if shared:
            direct.append((node, leaf))
        else:
            specific.append((leaf, tasks))
    ghosts = [call for own in groups.values() for call in own]
    order = {node: place for place, node in enumerate(walk.order)}
    direct.sort(key=lambda one: order[one[0]])
    shared_ones = {id(leaf): leaf for _, leaf in direct}
    for call in ghosts:
        for parameter in call.module._parameters.values():
            if parameter is not None and parameter.requires_grad:
                shared_ones[id(parameter)] = parameter
    places_of = {identity: place for place, identity in enumerate(names)}
    named = [
        (names.get(identity, _OUTSIDE), shared_ones[identity])
        for identity in sorted(shared_ones, key=lambda one: places_of.get(one, len(names)))
    ]
    numbers = sum(columns.width(leaf) for _, leaf in named) * walk.losses
    stored = not ghosts and way != "ghost"
    if stored and way == "auto" and named:
        size = columns.row_dtype([leaf for _, leaf in named]).itemsize
        free = free_memory(named[0][1].device)
        stored = free is None or numbers * size <= _SHARE * free
    items = [(call.node, prod(call.shape)) for call in ghosts]
    items += [(node, columns.width(leaf)) for node, leaf in direct]
    chain = [] if stored else _chain(walk, calls.outputs, [node for node, _ in items])
    places = {node: _segment_of(walk, chain, node) for node, _ in items}
    kept = _chosen(
        [calls.outputs[edge.node, edge.output_nr] for edge in chain],
        [sum(size for node, size in items if places[node] == at) for at in range(len(chain) + 1)],
        _NOTHING * numbers / max(walk.losses, 1),
    )
    edges = [chain[at - 1] for at in kept]
    segments = [
        Segment(
            start, end, list(range(walk.losses)) if start is None else walk.tasks_of(start.node)
        )
        for start, end in zip([None, *edges], [*edges, None], strict=True)
    ]
    bounds = [*kept, len(chain) + 1]

    def segment(node: Node) -> Segment:
        return segments[next(i for i, bound in enumerate(bounds) if places[node] < bound)]

    for call in ghosts:
        segment(call.node).calls.append(call)
    for node, leaf in direct:
        segment(node).parameters.append(leaf)
    by_products = {call.name for call in ghosts}
    ways = [
        Way(
            name,
            "products" if name in by_products else "rows",
            reasons.get(name, "no products known"),
        )
        for name in dict.fromkeys(name for name, _ in named)
    ]
    return Plan(segments, walk, named, specific, stored, ways, groups)


def _chain(
    walk: Walk, outputs: Mapping[tuple[Node, int], int], items: Sequence[Node]
) -> list[GradientEdge]:
    """The longest row of modules' outputs, each of which dominates the next."""
    longest: list[GradientEdge] = []
    for item in items:
        found = []
        for node in walk.dominators_of(item)[:-1]:
            arrival = walk.arrival(node)
            if arrival is not None and (node, arrival) in outputs:
                found.append(GradientEdge(node, arrival))
        if len(found) > len(longest):
            longest = found
    return longest


def _segment_of(walk: Walk, chain: Sequence[GradientEdge], item: Node) -> int:
    """Behind how many of the cuts an item lies."""
    above = set(walk.dominators_of(item)[:-1])
    return sum(edge.node in above for edge in chain)


def _chosen(cuts: Sequence[int], between: Sequence[int], nothing: float) -> list[int]:
    """Which cuts to make, by their places from 1: the fewest with about the least memory at a time.

    Args:
        cuts: The numbers per task at each possible cut.
        between: The numbers per task of what lies before the first, between each two, and behind
            the last.
        nothing: How many do not matter.
    """
    count = len(cuts)
    size = [0, *cuts, 0]

    def held(start: int, end: int) -> int:
        return size[start] + size[end] + sum(between[start:end])

    least = [0.0] * (count + 2)
    for end in range(1, count + 2):
        least[end] = min(max(least[start], held(start, end)) for start in range(end))
    allowed = max(_MORE * least[-1], nothing)
    fewest: list[tuple[int, list[int]] | None] = [(0, [])] + [None] * (count + 1)
    for end in range(1, count + 2):
        options = [
            (before[0] + 1, [*before[1], end])
            for start in range(end)
            if (before := fewest[start]) is not None and held(start, end) <= allowed
        ]
        fewest[end] = min(options, default=None)
    last = fewest[-1]
    assert last is not None
    return last[1][:-1]
