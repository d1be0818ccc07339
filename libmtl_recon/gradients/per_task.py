"""One gradient per task, as the rows of one matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import columns
from libmtl_recon.gradients.accumulate import add_gradient


def task_gradients(
    losses: Sequence[Tensor] | Tensor,
    shared: Sequence[Tensor],
    specific: Sequence[Tensor] = (),
    out: Tensor | None = None,
    *,
    retain_graph: bool = False,
) -> Tensor:
    """Compute the gradient of each task's loss with respect to the shared parameters.

    Args:
        losses: T scalar losses, or one tensor ``[T]``, with their graph. A loss without a graph has
            a gradient of zero.
        shared: The shared parameters. A frozen one (``requires_grad=False``) keeps its columns in
            the rows, which are zero, as are those of a parameter that a task does not reach. A
            complex one takes two columns for each of its numbers, in the layout of
            :func:`torch.view_as_real`.
        specific: Parameters that are not shared (decoders, task-specific layers). The gradient
            of the *sum* of the losses is added to their ``.grad``, so that each task's own
            parameters get the gradient of its own loss.
        out: A matrix ``[T, d]`` to write into instead of a new one.
        retain_graph: Keep the graph of the losses, for another backward pass.

    Returns:
        ``[T, d]`` in the parameters' real dtype (the widest, if they differ), on their device. Row
        t is the gradient of task t; the columns are the shared parameters flattened in order. It is
        dense even if a parameter has sparse gradients.

    Raises:
        UsageError: There is no shared parameter, a loss is not a scalar, or ``out`` has another
            shape.
    """
    columns.check_shared(shared)
    shapes = [list(loss.shape) for loss in losses if loss.numel() != 1]
    if shapes:
        raise UsageError(
            "losses",
            "must be scalars, one per task",
            f"one of shape {shapes[0]}",
            "Pass the mean over the samples, or a list of the entries.",
        )
    shape = (len(losses), sum(columns.widths(shared)))
    if out is not None and out.shape != shape:
        raise UsageError(
            "out",
            f"must have the shape {list(shape)}, one row per task and one column per element of "
            "the shared parameters",
            list(out.shape),
            "Leave it out to create a new matrix.",
        )
    trainable = [p for p in shared if p.requires_grad]
    wanted = [*trainable, *(p for p in specific if p.requires_grad)]
    if out is None:
        out = torch.empty(shape, dtype=columns.row_dtype(shared), device=shared[0].device)
    last = len(losses) - 1
    for task in range(len(losses)):
        gradients = gradients_or_none(
            losses[task], wanted, retain_graph=retain_graph or task < last
        )
        write_row(out[task], shared, gradients[: len(trainable)])
        for parameter, gradient in zip(
            wanted[len(trainable) :], gradients[len(trainable) :], strict=True
        ):
            if gradient is not None:
                # The first is copied: autograd may return one tensor for two parameters.
                fresh = parameter.grad is None
                add_gradient(parameter, gradient.clone() if fresh else gradient)
    return out


def scatter_gradient(vector: Tensor, shared: Sequence[Tensor]) -> None:
    """Add a gradient ``[d]`` to the ``.grad`` of the shared parameters.

    This is the counterpart of :func:`task_gradients`: the order and the width are the same, and as
    with any backward pass, gradients accumulate until ``zero_grad``. Frozen parameters get no
    gradient. A new ``.grad`` is dense, and a view of ``vector``, which must not be written to
    afterwards.

    Args:
        vector: ``[d]``, of any real dtype.
        shared: The parameters that it is a gradient of, in order.

    Raises:
        UsageError: The vector has another length.
    """
    for parameter, part in zip(shared, columns.split(vector, shared), strict=True):
        if parameter.requires_grad:
            shaped = columns.part_of(part, parameter)
            add_gradient(parameter, columns.gradient_of(shaped, parameter))


def gradients_or_none(
    root: Tensor,
    inputs: Sequence[Tensor],
    factor: Tensor | None = None,
    *,
    retain_graph: bool = False,
) -> Sequence[Tensor | None]:
    """Return the gradients of a root with respect to some inputs; None for unreached ones.

    Args:
        root: It may have no graph, for example a loss that is constant in this step.
        inputs: The inputs, possibly none.
        factor: The gradient of the root, in its shape; None: 1, for a scalar.
        retain_graph: Keep the graph.
    """
    if not root.requires_grad or not inputs:
        return [None] * len(inputs)
    return torch.autograd.grad(root, inputs, factor, retain_graph=retain_graph, allow_unused=True)


def write_row(row: Tensor, shared: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Write one task's gradients into its row ``[d]``.

    Args:
        row: The row to write; its columns are the shared parameters flattened in order.
        shared: The shared parameters.
        gradients: One for each trainable shared parameter, None where the task does not reach it.
    """
    remaining = iter(gradients)
    for parameter, part in zip(shared, columns.parts_of(row, shared), strict=True):
        gradient = next(remaining) if parameter.requires_grad else None
        if gradient is None:
            part.zero_()
        else:
            columns.write(part, gradient)
