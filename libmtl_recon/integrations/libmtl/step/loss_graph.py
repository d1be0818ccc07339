"""How LibMTL makes one tensor of the tasks' losses, read off its graph.

A task's scalar has its own task's graph behind it; an entry of LibMTL's tensor has those of all
tasks, which each backward pass through it walks. Only what LibMTL itself does is recognised, by the
nodes that autograd gives it: entries written into a vector, and batches of vectors stacked. Of any
other tensor of losses nothing is claimed, and the weighting gets it as it is: the same gradients,
by the longer way. An autograd that gave these nodes other names would make steps slower, not wrong.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def tops_of(losses: Tensor) -> list[Any]:
    """The graph nodes of the batches' loss vectors: LibMTL's main branch stacks them."""
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
    """Whether a vector of losses was written, entry by entry, with just these scalars.

    Args:
        node: The vector's.
        scalars: In the order in which they would have been written.
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
    """Go back over entries that were written without a graph: the losses of absent tasks."""
    while node is not None and node.name().endswith("CopySlices"):
        if node.next_functions[-1][0] is not None:
            return node
        node = node.next_functions[0][0]
    return node
