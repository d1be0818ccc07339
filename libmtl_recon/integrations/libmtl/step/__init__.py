"""LibMTL's training step: its losses one scalar per task, its per-task gradients in one buffer."""

from __future__ import annotations

from libmtl_recon.integrations.libmtl.step.functions import SEVERAL_BATCHES, hands_over
from libmtl_recon.integrations.libmtl.step.step import (
    Step,
    present_tasks,
    step_of,
    task_scalars,
)
from libmtl_recon.integrations.libmtl.step.watcher import Watcher

__all__ = [
    "SEVERAL_BATCHES",
    "Step",
    "Watcher",
    "hands_over",
    "present_tasks",
    "step_of",
    "task_scalars",
]
