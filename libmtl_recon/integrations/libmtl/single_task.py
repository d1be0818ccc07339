"""Train one task of a script alone: the baseline of multi-task learning."""

from __future__ import annotations

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.hooks import TrainerHook
from libmtl_recon.texts import did_you_mean


class SingleTask(TrainerHook):
    """Hook that keeps only one task in every Trainer.

    Args:
        task: The name of the task in the script's ``task_dict``.
    """

    def __init__(self, task: str) -> None:
        self.task = task

    def choose_tasks(self, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """Return only this task.

        Raises:
            UsageError: The script has no such task.
        """
        if self.task not in tasks:
            raise UsageError(
                "--single-task",
                "must be one of the script's tasks",
                self.task,
                f"{did_you_mean(self.task, tasks)}They are: {', '.join(tasks)}.",
            )
        return (self.task,)
