"""The graph between losses and parameters: which losses reach what, and through where they must.

A node that every path from the losses to a parameter runs through dominates it. There the backward
passes can be cut in two: those behind it need to know of the losses only their gradients there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import or_

from torch import Tensor
from torch.autograd.graph import Node

# Stands for several of a node's gradients.
_SEVERAL = -1
# Where gradients go on behind a node: to which nodes, and as which of their gradients.
Below = Callable[[Node], Iterable[tuple[Node, int]]]


def edges_below(node: Node) -> Iterable[tuple[Node, int]]:
    """Where autograd itself goes on behind a node."""
    return [edge for edge in node.next_functions if edge[0] is not None]  # type: ignore[misc]


class Walk:
    """All that some losses reach.

    Attributes:
        order: The nodes, each before those below it.
        losses: T.

    Args:
        losses: The T losses' nodes, None for a loss without a graph.
        below: Where to go on behind a node.
    """

    def __init__(self, losses: Sequence[Node | None], below: Below = edges_below) -> None:
        self._below: dict[Node, list[tuple[Node, int]]] = {}
        self._roots, self.losses = losses, len(losses)
        self.order = self._in_order(below)
        self._reached: dict[Node, int] = dict.fromkeys(self.order, 0)
        self._arrivals: dict[Node, int] = {}
        self._dominators = self._dominate()

    def tasks_of(self, *nodes: Node) -> list[int]:
        """The places of the losses that reach any of some nodes."""
        found = self.bits_of(*nodes)
        return [task for task in range(self.losses) if found >> task & 1]

    def count_of(self, *nodes: Node) -> int:
        """How many losses reach any of some nodes."""
        return self.bits_of(*nodes).bit_count()

    def bits_of(self, *nodes: Node) -> int:
        """The same places as bits."""
        return reduce(or_, (self._reached[node] for node in nodes), 0)

    def leaves(self) -> Iterator[tuple[Node, Tensor]]:
        """The leaves that are reached, with their nodes."""
        for node in self.order:
            leaf = None if self._below[node] else getattr(node, "variable", None)
            if isinstance(leaf, Tensor):
                yield node, leaf

    def above(self, node: Node) -> Node | None:
        """The last node that all paths to a node run through before it; None if there is none."""
        return self._dominators[node]

    def arrival(self, node: Node) -> int | None:
        """Which of a node's gradients all paths arrive at; None if at several."""
        found = self._arrivals[node]
        return None if found == _SEVERAL else found

    def _in_order(self, below: Below) -> list[Node]:
        found: list[Node] = []
        for root in self._roots:
            if root is None or root in self._below:
                continue
            self._below[root] = list(below(root))
            stack = [(root, iter(self._below[root]))]
            while stack:
                node, rest = stack[-1]
                for at, _ in rest:
                    if at not in self._below:
                        self._below[at] = list(below(at))
                        stack.append((at, iter(self._below[at])))
                        break
                else:
                    found.append(node)
                    stack.pop()
        return found[::-1]

    def _dominate(self) -> dict[Node, Node | None]:
        # A graph without circles needs one round of the algorithm of Cooper, Harvey and Kennedy.
        # Depth 0 stands for all losses together, above every node.
        depth: dict[Node, int] = {}
        found: dict[Node, Node | None] = {}
        reached, arrivals = self._reached, self._arrivals
        for task, root in enumerate(self._roots):
            if root is not None:
                reached[root] |= 1 << task
                arrivals[root] = 0
                found[root] = None
        for node in self.order:
            above = found[node]
            depth[node] = 1 if above is None else depth[above] + 1
            for at, number in self._below[node]:
                reached[at] |= reached[node]
                if arrivals.setdefault(at, number) != number:
                    arrivals[at] = _SEVERAL
                found[at] = _common(found[at], node, found, depth) if at in found else node
        return found


def _common(
    first: Node | None, second: Node | None, found: dict[Node, Node | None], depth: dict[Node, int]
) -> Node | None:
    while first is not second:
        if first is None or second is None:
            return None
        if depth[first] >= depth[second]:
            first = found[first]
        else:
            second = found[second]
    return first
