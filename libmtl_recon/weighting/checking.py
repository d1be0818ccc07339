"""Checks of the arguments of the weightings' functions other than the Gramian."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.task_names import check_task_names


def check_number(
    parameter: str, value: Any, least: float, most: float = math.inf, way_out: str = ""
) -> float:
    """Check that an argument is a finite number in a range, and return it.

    Raises:
        UsageError: It is not.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        rule = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
        raise UsageError(parameter, f"must be a finite number {rule}", value, way_out)
    return float(value)


def check_count(parameter: str, value: Any) -> int:
    """Check that an argument is an integer of at least 1, and return it.

    Raises:
        UsageError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise UsageError(parameter, "must be a whole number of at least 1", value, "1 is usual.")
    return int(value)


def check_preference(preference: Any, tasks: int) -> Tensor:
    """Check the preferences of the tasks.

    Returns:
        ``[T]``, float64, on the CPU.

    Raises:
        UsageError: They are not T finite numbers of at least 0.
    """
    try:
        found = _vector(preference)
    except (TypeError, ValueError, RuntimeError):
        found = torch.full((tasks,), math.nan)
    if list(found.shape) != [tasks] or not bool((found.isfinite() & (found >= 0)).all()):
        raise UsageError(
            "preference",
            f"must be {tasks} finite numbers of at least 0, one per task",
            preference,
            "Leave it out to give all tasks the same weight.",
        )
    return found


def check_same_shape(gramian: Tensor, before: Tensor) -> None:
    """Check that a weighting with a state gets the same number of tasks as before.

    Args:
        gramian: ``[..., T, T]``.
        before: A Gramian of an earlier step, or a state of its shape.

    Raises:
        UsageError: The shapes differ.
    """
    if gramian.shape != before.shape:
        raise UsageError(
            "gramian",
            f"must have the shape {list(before.shape)}, as in the step before",
            list(gramian.shape),
            "This weighting keeps a state per task: pass all tasks in every step, and call reset() "
            "before using it for other tasks.",
        )


def is_vector(value: Any, tasks: int | None = None) -> bool:
    """Return whether a value of a state is a tensor ``[T]`` of finite numbers of at least 0.

    Args:
        value: The value.
        tasks: T; None for any number from 1 up.
    """
    if not isinstance(value, Tensor) or value.ndim != 1 or not value.is_floating_point():
        return False
    known = len(value) > 0 and len(value) == (tasks or len(value))
    return known and bool((value.isfinite() & (value >= 0)).all())


def check_orders(orders: Any, tasks: int) -> list[list[int]]:
    """Check the orders in which tasks are compared, and return them.

    Raises:
        UsageError: They are not T lists, of the same length, of tasks' places from 0 to T - 1.
    """
    way_out = f"For two tasks write [[1], [0]]; here there are {tasks}."
    rule = f"must be {tasks} lists of the same length, with indices of tasks from 0 to {tasks - 1}"
    try:
        found = [[_place(one, tasks) for one in order] for order in orders]
    except (TypeError, ValueError) as error:
        raise UsageError("orders", rule, orders, way_out) from error
    if len(found) != tasks or len({len(order) for order in found}) > 1:
        raise UsageError("orders", rule, orders, way_out)
    return found


def check_task(task: object, tasks: Sequence[str]) -> None:
    """Check that a name is that of a task.

    Raises:
        UsageError: It is not one of the tasks.
    """
    if task not in tasks:
        raise UsageError(
            "task", f"must be one of {', '.join(map(repr, tasks))}", task, "Use one of these names."
        )


def check_tasks(tasks: Any) -> tuple[str, ...]:
    """Check the names of all tasks.

    Raises:
        UsageError: They are not strings, one occurs twice, there is none, or one cannot be the name
            of a module.
    """
    names = () if isinstance(tasks, str) else tuple(tasks)
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
        raise UsageError(
            "tasks",
            "must be a list of the tasks' names, all different",
            tasks,
            'Write ["depth", "normal"].',
        )
    check_task_names("tasks", names)
    return names


def named_losses(losses: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Check the losses of a step.

    Raises:
        UsageError: They are not a dict with a scalar for each of some of the tasks.
    """
    way_out = "Pass {task: loss}; leave out tasks that have no labels in this step."
    if not isinstance(losses, Mapping):
        count = len(losses) if isinstance(losses, Sequence | Tensor) and _has_length(losses) else 1
        raise UsageError(
            "losses",
            f"must be a dict of {len(tasks)} scalar losses by task name",
            f"{type(losses).__name__} of {count}",
            way_out,
        )
    if not losses:
        raise UsageError("losses", "must hold at least one task's loss", dict(losses), way_out)
    for name, loss in losses.items():
        check_task(name, tasks)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = list(loss.shape) if isinstance(loss, Tensor) else loss
            raise UsageError(
                f"the loss of task {name!r}", "must be a tensor of one number", shape, way_out
            )
    return {name: loss.reshape(()) for name, loss in losses.items()}


def check_losses(losses: Any, tasks: Sequence[str]) -> None:
    """Check losses that are given in one tensor.

    Raises:
        UsageError: They are not a tensor with one number per task that is present.
    """
    if not isinstance(losses, Tensor) or list(losses.shape) != [len(tasks)]:
        raise UsageError(
            "losses",
            f"must be a tensor [{len(tasks)}], one loss for each of {', '.join(map(repr, tasks))}",
            list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__,
            "Stack them in the order of the tasks.",
        )


def loss_values(parameter: str, losses: Any, tasks: int | None = None) -> Tensor:
    """Check the values of a step's losses.

    Args:
        parameter: The name of the argument.
        losses: A tensor ``[T]``, a list of numbers or scalars, or a dict with these as values.
        tasks: T, if it is known.

    Returns:
        ``[T]``, float64, on the CPU, without a graph.

    Raises:
        UsageError: They are not T finite numbers of at least 0.
    """
    values = list(losses.values()) if isinstance(losses, Mapping) else losses
    try:
        found = _vector(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_losses(parameter, losses, tasks) from error
    known = found.ndim == 1 and len(found) > 0 and len(found) == (tasks or len(found))
    if not known or not bool((found.isfinite() & (found >= 0)).all()):
        raise _no_losses(parameter, losses, tasks)
    return found


def _vector(values: Any) -> Tensor:
    """Return numbers, or scalars with or without a graph, as a tensor in float64, on the CPU."""
    if not isinstance(values, Tensor):
        plain = [one.detach() if isinstance(one, Tensor) else one for one in values]
        return torch.tensor([float(one) for one in plain], dtype=torch.float64)
    if values.is_complex():
        raise TypeError("complex numbers")
    return values.detach().cpu().double()


def _no_losses(parameter: str, losses: Any, tasks: int | None) -> UsageError:
    return UsageError(
        parameter,
        f"must be {tasks or 'T'} finite numbers of at least 0, one per task",
        losses,
        "Pass a list, a tensor [T], or a dict in the order of the tasks.",
    )


def _has_length(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.ndim > 0


def _place(value: Any, tasks: int) -> int:
    if isinstance(value, bool) or not 0 <= int(value) < tasks or int(value) != value:
        raise ValueError(value)
    return int(value)
