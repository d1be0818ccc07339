"""LibMTL's training step: its losses one scalar a task, its per-task gradients in one buffer."""

from __future__ import annotations

from libmtl_recon.gradient.step import Step, present_tasks, step_of, task_scalars
from libmtl_recon.plugin.step.functions import SEVERAL_BATCHES, hands_over

__all__ = ["SEVERAL_BATCHES", "Step", "hands_over", "present_tasks", "step_of", "task_scalars"]
