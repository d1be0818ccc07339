"""Per-task gradients of the shared parameters, and what is read off them."""

from __future__ import annotations

from libmtl_recon.gradients.gramian import (
    cosines,
    exact_device,
    gramian,
    isometric_rows,
    layer_gramians,
    quick_gramian,
)
from libmtl_recon.gradients.per_task import (
    gradients_or_none,
    scatter_gradient,
    task_gradients,
    write_row,
)
from libmtl_recon.gradients.rows import TaskRows

__all__ = [
    "TaskRows",
    "cosines",
    "exact_device",
    "gradients_or_none",
    "gramian",
    "isometric_rows",
    "layer_gramians",
    "quick_gramian",
    "scatter_gradient",
    "task_gradients",
    "write_row",
]
