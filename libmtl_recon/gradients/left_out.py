"""The layers that are not computed by products, with the reasons."""

from __future__ import annotations

from torch.autograd.graph import Node

from libmtl_recon.gradients.calls import Call, has_hooks
from libmtl_recon.gradients.dominators import Walk
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.gradients.ways import costs


def leave_out_unknown(
    groups: dict[int, list[Call]], reasons: dict[str, str], walk: Walk, wanted: set[int] | None
) -> None:
    """Exclude weights whose gradients do not follow from their calls alone.

    Args:
        groups: The calls, by the ids of their weights; those excluded are removed.
        reasons: Receives one reason for each layer that is excluded.
        walk: The part of the graph that the losses reach.
        wanted: The ids of the shared parameters; None: those that at least two losses reach.
    """
    reached = {id(leaf) for _, leaf in walk.leaves()}
    weights_of: dict[int, set[int]] = {}  # by the id of the bias used together with the weight
    for weight, own in groups.items():
        for call in own:
            for parameter in call.operation.parameters:
                weights_of.setdefault(id(parameter), set()).add(weight)
    for weight, own in list(groups.items()):
        used = {id(p): p for call in own for p in call.operation.parameters}
        if any(map(has_hooks, used.values())):
            reason = "its parameters have hooks"
        elif wanted is not None and not wanted.issuperset(used):
            reason = "not all of its parameters are shared"
        elif any(len(weights_of[identity]) > 1 for identity in used):
            reason = "its bias is used with several weights"
        elif any(0 in call.numbers for call in own):
            reason = "it is empty, or one of its calls had an empty input"
        elif len({(call.operation.kind, call.operation.groups) for call in own}) > 1:
            reason = "used in operations of several kinds"
        elif not reached.isdisjoint(used):
            reason = "also used outside of its module"
        else:
            continue
        reasons |= dict.fromkeys((call.name for call in own), reason)
        del groups[weight]


def leave_out_dear_ones(
    groups: dict[int, list[Call]],
    reasons: dict[str, str],
    walk: Walk,
    *,
    alone_is_shared: bool,
    ranks: Ranks | None,
) -> float:
    """Exclude weights whose rows cost less than their products.

    Args:
        groups: As for :func:`leave_out_unknown`.
        reasons: Receives one reason for each layer, also for those that stay.
        walk: As for :func:`leave_out_unknown`.
        alone_is_shared: Whether a parameter that one loss reaches can be shared.
        ranks: The ranks, each of which has the same number of positions.

    Returns:
        The number of multiplications that the products of the other weights save.
    """
    saved = 0.0
    for weight, own in list(groups.items()):
        nodes: dict[int, list[Node]] = {}
        for call in own:
            for parameter in call.operation.parameters:
                nodes.setdefault(id(parameter), []).append(call.node)
        reaching = [walk.count_of(*some) for some in nodes.values()]
        if min(reaching) < (1 if alone_is_shared else 2):
            # A weight that one task reaches is not a shared layer; only shared layers have reasons.
            if max(reaching) > 1:
                reasons[own[0].name] = "not all of its parameters are shared"
            del groups[weight]
            continue
        there = [(call, walk.count_of(call.node)) for call in own]
        cost = costs(there, own[0].inputs.device.type, 1 if ranks is None else ranks.size)
        if cost.products >= cost.rows:
            reasons[own[0].name] = (
                f"products would cost {cost.products / cost.rows:.3g} times as much"
            )
            del groups[weight]
        else:
            saved += cost.rows - cost.products
            reasons[own[0].name] = f"rows would cost {cost.rows / cost.products:.3g} times as much"
    return saved
