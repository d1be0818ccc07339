"""Networks with task-specific layers."""

from __future__ import annotations

from libmtl_recon.splitting.extract import extract_task
from libmtl_recon.splitting.outputs import by_task
from libmtl_recon.splitting.rebuild import split_from
from libmtl_recon.splitting.replacements import per_task_calls
from libmtl_recon.splitting.sizes import summary
from libmtl_recon.splitting.spec import SplitSpec
from libmtl_recon.splitting.split import (
    is_split,
    only_task,
    shared_parameters,
    split_layers,
    task_parameters,
)
from libmtl_recon.splitting.task_tensor import TaskTensor

__all__ = [
    "SplitSpec",
    "TaskTensor",
    "by_task",
    "extract_task",
    "is_split",
    "only_task",
    "per_task_calls",
    "shared_parameters",
    "split_from",
    "split_layers",
    "summary",
    "task_parameters",
]
