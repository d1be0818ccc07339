"""Per-task gradients of the shared parameters, and what is read off them."""

from __future__ import annotations

from libmtl_recon.gradient.gramian import (
    cosines,
    exact_device,
    gramian,
    isometric_rows,
    layer_gramians,
    quick_gramian,
)
from libmtl_recon.gradient.per_task import (
    gradients_or_none,
    scatter_gradient,
    task_gradients,
    write_row,
)
from libmtl_recon.gradient.rows import TaskRows
from libmtl_recon.gradient.split_losses import SplitLosses
from libmtl_recon.gradient.step import hand_out, present_tasks, task_rows, task_scalars

__all__ = [
    "SplitLosses",
    "TaskRows",
    "cosines",
    "exact_device",
    "gradients_or_none",
    "gramian",
    "hand_out",
    "isometric_rows",
    "layer_gramians",
    "present_tasks",
    "quick_gramian",
    "scatter_gradient",
    "task_gradients",
    "task_rows",
    "task_scalars",
    "write_row",
]
