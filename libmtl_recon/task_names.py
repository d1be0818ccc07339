"""Check the names of tasks, which become names of modules, by torch's rules for these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from libmtl_recon.errors import UsageError


def check_task_names(
    parameter: str, tasks: Sequence[Any], holder: type[nn.Module] = nn.Module
) -> None:
    """Refuse names that torch does not accept for a module.

    Args:
        parameter: The name of the caller's argument, for the message.
        tasks: The names.
        holder: The container of the tasks' modules, by name.

    Raises:
        UsageError: There is no name, two are the same, or one is not a string, is empty, contains a
            dot, or is an attribute of the holder.
    """
    if not tasks:
        raise UsageError(
            parameter, "must contain at least one task", tasks, "Give the names of the tasks."
        )
    rule = (
        "must be names fit for modules: non-empty strings without a dot that are not attributes "
        f"of nn.{holder.__name__}"
    )
    made = holder()
    for task in tasks:
        if not isinstance(task, str):
            raise UsageError(parameter, rule, task, f"Write it as a string: {str(task)!r}.")
        if not task.strip():
            raise UsageError(parameter, rule, task, "Give the task a name.")
        if "." in task:
            way_out = f"Rename the task, for example to {task.replace('.', '_')!r}."
            raise UsageError(parameter, rule, task, way_out)
        if hasattr(made, task):
            raise UsageError(
                parameter, rule, task, f"Rename the task, for example to '{task}_task'."
            )
    twice = next((task for task in tasks if list(tasks).count(task) > 1), None)
    if twice is not None:
        raise UsageError(parameter, "must be different names", twice, "Rename one of the two.")
