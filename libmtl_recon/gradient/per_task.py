"""One gradient a task, as the rows of one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


def task_gradients(
    losses: Sequence[Tensor] | Tensor,
    shared: Sequence[Tensor],
    specific: Sequence[Tensor] = (),
    out: Tensor | None = None,
    *,
    retain_graph: bool = False,
) -> Tensor:
    """The gradient of each task's loss with respect to the shared parameters.

    Args:
        losses: T scalar losses, or one tensor ``[T]``, with their graph.
        shared: The shared parameters. A frozen one (``requires_grad`` false) keeps its place in
            the rows and is zero there, as is one that a task does not reach.
        specific: Parameters that are not shared (decoders, task-specific layers). The gradient
            of the *sum* of the losses is added to their ``.grad``, so that every task updates
            its own part by its own loss.
        out: A matrix ``[T, d]`` to write into instead of a new one.
        retain_graph: Keep the graph of the losses, for another backward pass.

    Returns:
        ``[T, d]`` in the parameters' dtype (the widest of them, if they differ), on their
        device; row t is task t, columns are the shared parameters flattened in order.
    """
    trainable = [p for p in shared if p.requires_grad]
    wanted = [*trainable, *(p for p in specific if p.requires_grad)]
    width = sum(p.numel() for p in shared)
    if out is None:
        dtype = reduce(torch.promote_types, (p.dtype for p in shared))
        out = torch.empty(len(losses), width, dtype=dtype, device=shared[0].device)
    last = len(losses) - 1
    for task in range(len(losses)):
        gradients = torch.autograd.grad(
            losses[task], wanted, retain_graph=retain_graph or task < last, allow_unused=True
        )
        write_row(out[task], shared, gradients[: len(trainable)])
        _accumulate(wanted[len(trainable) :], gradients[len(trainable) :])
    return out


def scatter_gradient(vector: Tensor, shared: Sequence[Tensor]) -> None:
    """Hand a gradient ``[d]`` out to the shared parameters' ``.grad``; frozen ones get none.

    The counterpart of :func:`task_gradients`: same order, same width. The ``.grad`` are views
    of ``vector``, which must not be written to afterwards.
    """
    parts = vector.split([p.numel() for p in shared])
    for parameter, part in zip(shared, parts, strict=True):
        if parameter.requires_grad:
            parameter.grad = part.view_as(parameter).to(parameter.dtype)


def write_row(row: Tensor, shared: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Write one task's gradients into its row ``[d]``.

    Args:
        row: Written to; its columns are the shared parameters flattened in order.
        shared: The shared parameters.
        gradients: One for each of them that trains, None where the task does not reach it.
    """
    remaining = iter(gradients)
    for parameter, part in zip(shared, row.split([p.numel() for p in shared]), strict=True):
        gradient = next(remaining) if parameter.requires_grad else None
        if gradient is None:
            part.zero_()
        else:
            part.copy_(gradient.reshape(-1))


def _accumulate(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        # A copy at first: autograd may hand one tensor out for two parameters.
        parameter.grad = gradient.clone() if parameter.grad is None else parameter.grad + gradient
