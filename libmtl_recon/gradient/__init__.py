"""Per-task gradients of the shared parameters, and what is read off them."""

from __future__ import annotations

from libmtl_recon.gradient.gramian import cosines, exact_device, gramian, layer_gramians
from libmtl_recon.gradient.per_task import scatter_gradient, task_gradients, write_row

__all__ = [
    "cosines",
    "exact_device",
    "gramian",
    "layer_gramians",
    "scatter_gradient",
    "task_gradients",
    "write_row",
]
