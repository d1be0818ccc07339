"""The plan of the backward passes for the Gramian of a network's tasks, and of each layer's way."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from libmtl_recon.gradients import columns
from libmtl_recon.gradients.calls import Call, Calls
from libmtl_recon.gradients.cuts import Chain, chosen
from libmtl_recon.gradients.dominators import Walk, edges_below
from libmtl_recon.gradients.exchange import refuse_other_graphs
from libmtl_recon.gradients.graph_operations import call_at
from libmtl_recon.gradients.left_out import leave_out_dear_ones, leave_out_unknown
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.gradients.ways import Way, free_memory, whole_pass

WAYS = ("auto", "stored", "ghost")
# The share of the free memory above which rows are not stored.
_SHARE = 0.25
# The share of the rows that counts as negligible.
_NOTHING = 0.02
# The layer name of shared parameters that are not part of the network.
_OUTSIDE = "(outside of the network)"


@dataclass
class Segment:
    """A part of the graph between two cuts.

    Attributes:
        start: The edge where it begins; None: at the losses.
        end: The edge where the next segment begins; None for the last.
        tasks: The places of the tasks that reach it.
        calls: The calls of layers that are computed by products.
        parameters: The shared parameters whose rows are computed.
    """

    start: GradientEdge | None
    end: GradientEdge | None
    tasks: list[int]
    calls: list[Call] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)


@dataclass
class Plan:
    """The plan for computing a Gramian.

    Attributes:
        segments: The segments, in the order of the backward passes.
        walk: The part of the graph that the losses reach.
        shared: The shared parameters that they reach, with their layers' names, in network order.
        specific: The parameters that are not shared, with the tasks that reach them.
        stored: Whether all rows are kept for the update.
        ways: The way in which each layer is computed.
        calls: The calls of each weight that is computed by products, by its id.
        unsure: An operation that may not be linear in the gradient, so that the rows are stored;
            empty if none is known.
    """

    segments: list[Segment]
    walk: Walk
    shared: list[tuple[str, Tensor]]
    specific: list[tuple[Tensor, list[int]]]
    stored: bool
    ways: list[Way]
    calls: dict[int, list[Call]]
    unsure: str = ""

    @property
    def numbers(self) -> int:
        """The number of entries per task of the gradients of all shared parameters."""
        return sum(columns.width(leaf) for _, leaf in self.shared)

    @property
    def held(self) -> int:
        """The number of these entries that are held in memory at a time."""
        if self.stored:
            return self.numbers
        return max(sum(map(columns.width, one.parameters)) for one in self.segments)


def make_plan(
    losses: Sequence[Node | None],
    calls: Calls,
    names: Mapping[int, str],
    shared: Iterable[Tensor] | None,
    way: str,
    ranks: Ranks | None = None,
) -> Plan:
    """Plan the computation for T losses.

    Args:
        losses: The losses' nodes; None for a loss without a graph.
        calls: The calls of the forward passes.
        names: The layers' names, by the ids of the network's parameters.
        shared: The shared parameters; None: those of the network that at least two losses reach.
        way: One of :data:`WAYS`.
        ranks: The ranks that run the passes together; all use the plan of rank 0.
    """
    wanted = None if shared is None else {id(parameter) for parameter in shared}
    walk, called = _walk(losses, calls.calls, names) if way != "stored" else (Walk(losses), [])
    if ranks is not None and way != "stored":
        refuse_other_graphs(_outline(walk, called, names), ranks)
    groups: dict[int, list[Call]] = {}
    for call in called:
        groups.setdefault(id(call.operation.weight), []).append(call)
    reasons: dict[str, str] = {}
    every = dict(groups)
    leave_out_unknown(groups, reasons, walk, wanted)
    saved = leave_out_dear_ones(
        groups, reasons, walk, alone_is_shared=wanted is not None, ranks=ranks
    )
    if way == "auto" and groups and saved <= whole_pass(called, calls.others):
        reasons |= dict.fromkeys(
            (own[0].name for own in groups.values()),
            "products would save less than the pass that the update would need",
        )
        groups = {}
    if ranks is not None and way != "stored":
        # The other ranks have fewer positions, or receive none.
        with ranks.sending("plan"):
            kept = ranks.from_first([weight in groups for weight in every])
        groups = {w: own for (w, own), keep in zip(every.items(), kept, strict=True) if keep}
    by_rows = [call for call in called if id(call.operation.weight) not in groups]
    uses = _uses(walk, by_rows, groups)
    return _planned(uses, walk, calls, groups, names, wanted, way, reasons, ranks)


def _walk(
    losses: Sequence[Node | None], calls: Mapping[Node, Call], names: Mapping[int, str]
) -> tuple[Walk, list[Call]]:
    """Return the walk that skips each call, from its output to its inputs, and these calls."""
    around: list[Call] = []

    def below(node: Node) -> Iterable[tuple[Node, int]]:
        call = calls.get(node) or call_at(node, names)
        if call is None or not call.operation.weight.requires_grad:
            return edges_below(node)
        # A tensor that temporarily replaces a parameter has its own graph.
        if any(id(parameter) not in names for parameter in call.operation.parameters):
            return edges_below(node)
        around.append(call)
        return call.below

    return Walk(losses, below), around


def _outline(walk: Walk, called: Sequence[Call], names: Mapping[int, str]) -> object:
    leaves = [(names.get(id(leaf), ""), walk.tasks_of(node)) for node, leaf in walk.leaves()]
    # Functions that may not be linear in the gradient determine how everything is computed.
    custom = sorted({node.name() for node in walk.order if isinstance(node, BackwardCFunction)})
    return [(call.name, walk.tasks_of(call.node)) for call in called], sorted(leaves), custom


@dataclass
class _Use:
    """The uses of a parameter.

    Attributes:
        leaf: The parameter.
        nodes: The nodes above it, if it is computed by rows.
        tasks: The places of the tasks that reach it.
        products: Whether it is computed by products, so that no pass computes its gradients.
    """

    leaf: Tensor
    nodes: list[Node]
    tasks: list[int]
    products: bool


def _uses(walk: Walk, by_rows: Sequence[Call], groups: Mapping[int, list[Call]]) -> list[_Use]:
    leaves: dict[int, Tensor] = {}
    nodes: dict[int, list[Node]] = {}
    found = [(leaf, node) for node, leaf in walk.leaves()]
    products = [call for own in groups.values() for call in own]
    for call in [*by_rows, *products]:
        found += [(parameter, call.node) for parameter in call.operation.parameters]
    for leaf, node in found:
        leaves[id(leaf)] = leaf
        nodes.setdefault(id(leaf), []).append(node)
    ghosts = {id(parameter) for call in products for parameter in call.operation.parameters}
    return [
        _Use(leaf, nodes[identity], walk.tasks_of(*nodes[identity]), identity in ghosts)
        for identity, leaf in leaves.items()
    ]


def _planned(
    uses: Sequence[_Use],
    walk: Walk,
    calls: Calls,
    groups: dict[int, list[Call]],
    names: Mapping[int, str],
    wanted: set[int] | None,
    way: str,
    reasons: Mapping[str, str],
    ranks: Ranks | None,
) -> Plan:
    shared: list[_Use] = []
    specific: list[tuple[Tensor, list[int]]] = []
    for use in uses:
        if wanted is not None:
            of_all = id(use.leaf) in wanted
        else:
            of_all = id(use.leaf) in names and (len(use.tasks) > 1 or walk.losses == 1)
        if of_all:
            shared.append(use)
        else:
            specific.append((use.leaf, use.tasks))
    places = {identity: place for place, identity in enumerate(names)}
    shared.sort(key=lambda use: places.get(id(use.leaf), len(places)))
    named = [(names.get(id(use.leaf), _OUTSIDE), use.leaf) for use in shared]
    segments = [Segment(None, None, list(range(walk.losses)))]
    stored = not groups and way != "ghost" and (way == "stored" or _fit(named, walk.losses))
    if ranks is not None and not groups and way == "auto":
        with ranks.sending("plan"):
            stored = ranks.from_first(stored)
    if not stored:
        segments = _segments(walk, calls, groups, shared, ranks)
    by_products = {call.name for own in groups.values() for call in own}
    ways = [
        Way(
            name,
            "products" if name in by_products else "rows",
            reasons.get(name, "no products known"),
        )
        for name in dict.fromkeys(name for name, _ in named)
    ]
    return Plan(segments, walk, named, specific, stored, ways, groups)


def _fit(named: Sequence[tuple[str, Tensor]], tasks: int) -> bool:
    """Return whether all rows fit into memory at once."""
    leaves = [leaf for _, leaf in named]
    free = free_memory(leaves[0].device) if leaves else None
    if free is None:
        return True
    return tasks * sum(columns.widths(leaves)) * columns.row_dtype(leaves).itemsize <= _SHARE * free


def _segments(
    walk: Walk,
    calls: Calls,
    groups: Mapping[int, list[Call]],
    shared: Sequence[_Use],
    ranks: Ranks | None,
) -> list[Segment]:
    """Return the segments of the graph, each with what its passes compute."""
    ghosts = [call for own in groups.values() for call in own]
    rows = [use for use in shared if not use.products]
    nodes = [*(call.node for call in ghosts), *(node for use in rows for node in use.nodes)]
    chain = Chain(walk, calls.outputs, nodes)
    of_calls = [chain.passed(call.node) for call in ghosts]
    of_rows = [min(chain.passed(node) for node in use.nodes) for use in rows]
    between = [0] * (len(chain.edges) + 1)
    for place, call in zip(of_calls, ghosts, strict=True):
        between[place] += call.shape.numel()
    for place, use in zip(of_rows, rows, strict=True):
        between[place] += columns.width(use.leaf)
    kept = chosen(
        [calls.outputs[edge.node, edge.output_nr] for edge in chain.edges],
        between,
        _NOTHING * sum(columns.width(use.leaf) for use in shared),
    )
    if ranks is not None:
        # For a shorter part of the batch other cuts may be better; all ranks use those of rank 0.
        with ranks.sending("plan"):
            kept = ranks.from_first(kept)
    edges = [chain.edges[place - 1] for place in kept]
    segments = [
        Segment(
            start, end, list(range(walk.losses)) if start is None else walk.tasks_of(start.node)
        )
        for start, end in zip([None, *edges], [*edges, None], strict=True)
    ]
    for place, call in zip(of_calls, ghosts, strict=True):
        segments[bisect_right(kept, place)].calls.append(call)
    for place, use in zip(of_rows, rows, strict=True):
        segments[bisect_right(kept, place)].parameters.append(use.leaf)
    return segments
