"""Per-task gradients of a LibMTL step by this package's own backward passes, one per task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.gradients import columns, gradients_or_none, task_gradients, write_row


def rows_of_own_passes(model: Any, losses: Tensor, present: Sequence[int]) -> Tensor:
    """Compute the gradient of each present task with respect to the shared parameters.

    No ``.grad`` is changed, and the graph is kept.

    Args:
        model: LibMTL's model.
        losses: ``[T]`` of all tasks, or ``[P]`` of those that are present.
        present: The places of the P tasks that have labels in this step.

    Returns:
        ``[P, d]``; see :func:`~libmtl_recon.gradients.task_gradients`.
    """
    shared = list(model.get_share_params())
    names = [model.task_name[place] for place in present]
    losses = losses if len(names) == len(losses) else losses[list(present)]
    if not model.rep_grad and not hasattr(model, "rotograd"):
        return task_gradients(losses, shared, retain_graph=True)
    trainable = [p for p in shared if p.requires_grad]
    rows = torch.zeros(
        len(losses),
        sum(columns.widths(shared)),
        dtype=columns.row_dtype(shared),
        device=shared[0].device,
    )
    for row, loss, task in zip(rows, losses, names, strict=True):
        # The losses' graphs end at a copy of the representation, and at what a decoder shares
        # with the encoder; continue through the copy.
        leaf, representation = _cut(model, task)
        at_leaf, *direct = gradients_or_none(loss, [leaf, *trainable], retain_graph=True)
        through: Sequence[Tensor | None] = [None] * len(trainable)
        if at_leaf is not None:
            through = gradients_or_none(representation, trainable, at_leaf, retain_graph=True)
        write_row(row, shared, list(map(_sum, direct, through)))
    return rows


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _cut(model: Any, task: str) -> tuple[Tensor, Tensor]:
    """Return where rep_grad or RotoGrad cuts a task's graph: the leaf, and the tensor before."""
    if not model.rep_grad:
        cut = model.rotograd.cuts.of(task)
        return cut.leaf, cut.source
    return model.rep_tasks[task], model.rep[task] if isinstance(model.rep, dict) else model.rep
