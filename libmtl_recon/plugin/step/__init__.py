"""LibMTL's training step: its losses one scalar a task, its per-task gradients in one buffer."""

from __future__ import annotations

from libmtl_recon.gradient.step import Step, present_tasks, step_of, task_scalars

__all__ = ["Step", "present_tasks", "step_of", "task_scalars"]
