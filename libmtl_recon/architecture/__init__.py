"""Networks with task-specific layers."""

from __future__ import annotations

from libmtl_recon.architecture.bundle import Bundle
from libmtl_recon.architecture.extract import extract_task
from libmtl_recon.architecture.outputs import by_task
from libmtl_recon.architecture.split import (
    is_split,
    only_task,
    shared_parameters,
    split_layers,
    task_parameters,
)

__all__ = [
    "Bundle",
    "by_task",
    "extract_task",
    "is_split",
    "only_task",
    "shared_parameters",
    "split_layers",
    "task_parameters",
]
