"""Recognise, from its graph, how LibMTL combines the tasks' losses into one tensor.

A task's scalar has its own task's graph behind it; an entry of LibMTL's tensor has those of all
tasks, which each backward pass through it traverses. Only LibMTL's own operations are recognised,
by their autograd nodes: entries written into a vector, and batches of vectors stacked. Any other
tensor of losses is passed to the weighting unchanged: the same gradients, computed more slowly. If
autograd gave these nodes other names, steps would be slower, not wrong.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def tops_of(losses: Tensor) -> list[Any]:
    """Return the graph nodes of the batches' loss vectors: LibMTL's main branch stacks them."""
    node = losses.grad_fn
    if node is None:
        return []
    if not node.name().startswith("SqueezeBackward"):
        return [node]
    stack = node.next_functions[0][0]
    if stack is None or not stack.name().startswith("StackBackward"):
        return [node]
    return [batch for batch, _ in stack.next_functions]


def was_filled_with(node: Any, scalars: tuple[Tensor, ...]) -> bool:
    """Return whether a vector of losses was written, entry by entry, with exactly these scalars.

    Args:
        node: The vector's node.
        scalars: The scalars, in the order in which they would have been written.
    """
    for scalar in reversed(scalars):
        if not scalar.requires_grad:
            continue
        node = _before_constants(node)
        if node is None or not node.name().endswith("CopySlices"):
            return False
        # Several scalars may be outputs of one node.
        if node.next_functions[-1] != (scalar.grad_fn, scalar.output_nr):
            return False
        node = node.next_functions[0][0]
    return _before_constants(node) is None


def _before_constants(node: Any) -> Any:
    """Return the node before entries that were written without a graph: absent tasks' losses."""
    while node is not None and node.name().endswith("CopySlices"):
        if node.next_functions[-1][0] is not None:
            return node
        node = node.next_functions[0][0]
    return node
