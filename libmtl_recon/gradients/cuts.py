"""Where the backward passes are cut, so that little is held of each part of the graph at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from torch.autograd.graph import GradientEdge, Node

from libmtl_recon.gradients.dominators import Walk

# By how much more memory than the least the fewest cuts may take.
_MORE = 1.25


class Chain:
    """The longest row of modules' outputs, each of which dominates the next.

    Attributes:
        edges: Where they are in the graph.

    Args:
        walk: What the losses reach.
        outputs: The places of modules' outputs.
        ends: The nodes that it may lead to, and may have as its last.
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
        """Behind how many of them a node is, or its gradients, if it is one of them."""
        return self._passed[node]


def chosen(cuts: Sequence[int], between: Sequence[int], nothing: float) -> list[int]:
    """Which cuts to make, by their places from 1: the fewest with about the least memory at a time.

    Args:
        cuts: The numbers per task at each possible cut.
        between: The numbers per task of what lies before the first, between each two, and behind
            the last.
        nothing: How many do not matter.
    """
    count = len(cuts) + 1
    size = [0, *cuts, 0]
    before = [0, *accumulate(between)]
    # What is held between two cuts is the first of one end and the second of the other.
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
    # To each cut: how many there are to it at least, and the one before it.
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
