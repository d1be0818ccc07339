"""The graph between losses and parameters: which losses reach what, and through where they must.

A node that every path from the losses to a parameter runs through dominates it. There the backward
passes can be cut in two: those behind it need to know of the losses only their gradients there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

# Where gradients go on behind a node.
Below = Callable[[Node], Iterable[GradientEdge]]


def edges_below(node: Node) -> Iterable[GradientEdge]:
    """Where autograd itself goes on behind a node."""
    return [GradientEdge(at, nr) for at, nr in node.next_functions if at is not None]


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
        self._below: dict[Node, list[GradientEdge]] = {}
        self._roots, self.losses = losses, len(losses)
        self.order = self._in_order(below)
        self._reached: dict[Node, int] = dict.fromkeys(self.order, 0)
        self._arrivals: dict[Node, set[int]] = {node: set() for node in self.order}
        self._dominators = self._dominate()

    def tasks_of(self, node: Node) -> list[int]:
        """The places of the losses that reach a node."""
        found = self._reached.get(node, 0)
        return [task for task in range(len(self._roots)) if found >> task & 1]

    def leaves(self) -> Iterator[tuple[Node, Tensor]]:
        """The leaves that are reached, with their nodes."""
        for node in self.order:
            leaf = None if self._below[node] else getattr(node, "variable", None)
            if isinstance(leaf, Tensor):
                yield node, leaf

    def dominators_of(self, node: Node) -> list[Node]:
        """The nodes, first the uppermost, that all paths to a node run through; it is the last."""
        found: list[Node] = []
        at: Node | None = node
        while at is not None:
            found.append(at)
            at = self._dominators[at]
        return found[::-1]

    def arrival(self, node: Node) -> int | None:
        """Which of a node's gradients all paths arrive at; None if at several."""
        arrivals = self._arrivals[node]
        return next(iter(arrivals)) if len(arrivals) == 1 else None

    def _in_order(self, below: Below) -> list[Node]:
        found: list[Node] = []
        for root in self._roots:
            if root is None or root in self._below:
                continue
            self._below[root] = list(below(root))
            stack = [(root, iter(self._below[root]))]
            while stack:
                node, rest = stack[-1]
                for edge in rest:
                    if edge.node not in self._below:
                        self._below[edge.node] = list(below(edge.node))
                        stack.append((edge.node, iter(self._below[edge.node])))
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
        seen: set[Node] = set()
        for task, root in enumerate(self._roots):
            if root is not None:
                self._reached[root] |= 1 << task
                self._arrivals[root].add(0)
                found[root] = None
                seen.add(root)
        for node in self.order:
            above = found[node]
            depth[node] = 1 if above is None else depth[above] + 1
            for edge in self._below[node]:
                self._reached[edge.node] |= self._reached[node]
                self._arrivals[edge.node].add(edge.output_nr)
                if edge.node not in seen:
                    found[edge.node] = node
                    seen.add(edge.node)
                else:
                    found[edge.node] = _common(found[edge.node], node, found, depth)
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
