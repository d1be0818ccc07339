"""The autograd graph between losses and parameters: which losses reach a node, and its dominators.

A node dominates a parameter if every path from the losses to the parameter runs through it. The
backward passes can be cut in two there: the second part only needs the losses' gradients at that
node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from operator import or_

from torch import Tensor
from torch.autograd.graph import Node

# Denotes several of a node's gradients.
_SEVERAL = -1
# The next nodes after a node in the backward pass, each with the number of its gradient.
Below = Callable[[Node], Iterable[tuple[Node, int]]]


def edges_below(node: Node) -> Iterable[tuple[Node, int]]:
    """Return the next nodes after a node in autograd's own graph."""
    return [edge for edge in node.next_functions if edge[0] is not None]  # type: ignore[misc]


class Walk:
    """The part of the graph that some losses reach.

    Attributes:
        order: The nodes, each before those below it.
        losses: The number of losses T.

    Args:
        losses: The T losses' nodes, None for a loss without a graph.
        below: The function that returns the next nodes after a node.
    """

    def __init__(self, losses: Sequence[Node | None], below: Below = edges_below) -> None:
        self._below: dict[Node, list[tuple[Node, int]]] = {}
        self._roots, self.losses = losses, len(losses)
        self.order = self._in_order(below)
        self._reached: dict[Node, int] = dict.fromkeys(self.order, 0)
        self._arrivals: dict[Node, int] = {}
        self._dominators = self._dominate()

    def tasks_of(self, *nodes: Node) -> list[int]:
        """Return the places of the losses that reach at least one of the nodes."""
        found = self.bits_of(*nodes)
        return [task for task in range(self.losses) if found >> task & 1]

    def count_of(self, *nodes: Node) -> int:
        """Return the number of losses that reach at least one of the nodes."""
        return self.bits_of(*nodes).bit_count()

    def bits_of(self, *nodes: Node) -> int:
        """Return the places of the losses that reach at least one of the nodes, as bits."""
        return reduce(or_, (self._reached[node] for node in nodes), 0)

    def leaves(self) -> Iterator[tuple[Node, Tensor]]:
        """Iterate over the leaves that are reached, with their nodes."""
        for node in self.order:
            leaf = None if self._below[node] else getattr(node, "variable", None)
            if isinstance(leaf, Tensor):
                yield node, leaf

    def above(self, node: Node) -> Node | None:
        """Return the last node before a node that is on all paths to it; None if there is none."""
        return self._dominators[node]

    def arrival(self, node: Node) -> int | None:
        """Return the gradient of a node at which all paths arrive; None if there are several."""
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
        # An acyclic graph needs one iteration of the algorithm of Cooper, Harvey and Kennedy.
        # Depth 0 is the root above every node, which stands for all losses together.
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
