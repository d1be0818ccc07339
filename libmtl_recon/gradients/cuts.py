"""The choice of cuts of the backward passes, which limit what is held in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from torch.autograd.graph import GradientEdge, Node

from libmtl_recon.gradients.dominators import Walk

# How many times the least possible memory the fewest cuts may take.
_MORE = 1.25


class Chain:
    """The longest chain of modules' outputs of which each dominates the next.

    Attributes:
        edges: Their edges in the graph.

    Args:
        walk: The part of the graph that the losses reach.
        outputs: The places of modules' outputs.
        ends: The nodes that the chain may lead to, and that may be its last.
    """

    def __init__(
        self, walk: Walk, outputs: Mapping[tuple[Node, int], int], ends: Iterable[Node]
    ) -> None:
        passed: dict[Node | None, int] = {None: 0}
        for node in walk.order:
            passed[node] = passed[walk.above(node)] + ((node, walk.arrival(node)) in outputs)
        longest: list[Node] = []
        at: Node | None = max(ends, key=passed.__getitem__, default=None)
        while passed[at]:
            assert at is not None
            above = walk.above(at)
            if passed[at] > passed[above]:
                longest.append(at)
            at = above
        self.edges = [GradientEdge(node, walk.arrival(node) or 0) for node in reversed(longest)]
        ranks = {edge.node: rank for rank, edge in enumerate(self.edges, 1)}
        self._passed: dict[Node | None, int] = {None: 0}
        for node in walk.order:
            self._passed[node] = ranks.get(node) or self._passed[walk.above(node)]

    def passed(self, node: Node) -> int:
        """Return how many outputs of the chain come before a node, or before its gradients."""
        return self._passed[node]


def chosen(cuts: Sequence[int], between: Sequence[int], nothing: float) -> list[int]:
    """Choose the fewest cuts with about the least memory at a time; their places count from 1.

    Args:
        cuts: How many numbers per task each possible cut holds.
        between: How many numbers per task are held before the first cut, between each two, and
            after the last.
        nothing: A number of numbers that is negligible.
    """
    count = len(cuts) + 1
    size = [0, *cuts, 0]
    before = [0, *accumulate(between)]
    # What is held between two cuts is starts[first] + ends[second].
    starts = [size[at] - before[at] for at in range(count)]
    ends = [size[at] + before[at] for at in range(count + 1)]
    least = [0.0]
    for end in range(1, count + 1):
        least.append(
            min(
                max(most, start + ends[end])
                for most, start in zip(least, starts[:end], strict=True)
            )
        )
    allowed = max(_MORE * least[-1], nothing)
    # For each cut: the least number of cuts up to it, and the one before it.
    fewest: list[tuple[int, int] | None] = [(0, 0)]
    for end in range(1, count + 1):
        options = (
            (fewest_to[0] + 1, start)
            for start, fewest_to in enumerate(fewest)
            if fewest_to is not None and starts[start] + ends[end] <= allowed
        )
        fewest.append(min(options, default=None))
    found, at = [], count
    while (last := fewest[at]) is not None and last[1]:
        at = last[1]
        found.append(at)
    return found[::-1]
