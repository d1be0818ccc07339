"""Checks of a probe's arguments: tasks, losses and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients.losses import check_losses
from libmtl_recon.task_names import check_task_names
from libmtl_recon.texts import did_you_mean


def check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """Check the tasks' names, and return them.

    Raises:
        UsageError: They are not at least two different strings, or unfit for modules' names.
    """
    rule = "must be the names of at least two tasks, all different strings"
    texts = isinstance(tasks, Sequence) and all(isinstance(task, str) for task in tasks)
    if not texts or isinstance(tasks, str):
        raise UsageError("tasks", rule, tasks, "Pass a list such as ['digit', 'article'].")
    if len(tasks) < 2 or len(set(tasks)) < len(tasks):
        raise UsageError(
            "tasks", rule, list(tasks), "A conflict is between the gradients of two tasks."
        )
    # The layers that the profile chooses will be split for these tasks.
    check_task_names("tasks", tasks)
    return tuple(tasks)


def losses_in_order(
    losses: Mapping[str, Tensor | None] | Sequence[Tensor | None], tasks: Sequence[str]
) -> list[Tensor | None]:
    """Check the losses, and return one per task, in order; None for an absent task.

    Raises:
        UsageError: A task is unknown, there is no loss, the list has another length, or a loss is
            not a real scalar or has no graph.
    """
    if isinstance(losses, Mapping):
        for task in losses:
            if task not in tasks:
                raise UsageError(
                    "losses",
                    f"must be of the probe's tasks, which are {', '.join(tasks)}",
                    task,
                    f"{did_you_mean(task, tasks)}Create the ConflictProbe with all tasks; in a "
                    "step in which a task is absent, leave it out.",
                )
        found = [losses.get(task) for task in tasks]
    elif isinstance(losses, list | tuple):
        if len(losses) != len(tasks):
            raise UsageError(
                "losses",
                f"must be {len(tasks)}, one for each of the tasks {', '.join(tasks)}",
                f"{len(losses)} losses",
                "Pass None for a task that is absent, or pass a dict.",
            )
        found = list(losses)
    else:
        raise UsageError(
            "losses",
            "must be a dict by task, or a list in the order of the tasks",
            type(losses).__name__,
            "Pass each task's loss as it was computed, not stacked and not their sum.",
        )
    given = zip(tasks, found, strict=True)
    check_losses({task: loss for task, loss in given if loss is not None})
    if all(loss is None for loss in found):
        raise UsageError(
            "losses",
            "must have the loss of at least one task",
            losses,
            "Skip the step if no task is present.",
        )
    return found


def refuse_not_finite(tasks: Sequence[str]) -> None:
    """Refuse losses that are NaN or infinite.

    Args:
        tasks: The tasks with such losses.

    Raises:
        ReconError: There are any.
    """
    if tasks:
        raise ReconError(
            f"The loss of task {', '.join(map(repr, tasks))} was not finite (NaN or inf). Look at "
            "this task's labels and loss, or lower the learning rate; leave the task out of "
            "`losses` in a step in which it has no labels."
        )


def check_provenance(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the provenance of a profile, and return it as a dict.

    Raises:
        UsageError: It is not a mapping that can be represented in JSON.
    """
    try:
        if given is not None and not isinstance(given, Mapping):
            raise TypeError
        found = dict(given or {})
        json.dumps(found, allow_nan=False)
    except (TypeError, ValueError):
        raise UsageError(
            "provenance",
            "must be a dict that can be represented in JSON",
            given,
            "Pass strings and numbers, such as {'dataset': 'MNIST', 'seed': 0}.",
        ) from None
    return found
