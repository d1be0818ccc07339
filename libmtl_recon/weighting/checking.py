"""What the weightings' functions are given, checked and made ready to compute with."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import exact_device
from libmtl_recon.task_names import check_task_names

# How far the entries (i, j) and (j, i) may lie apart, in lengths of the two gradients, for rounding
# to be the cause: at least this, and so many roundings of the dtype.
_SYMMETRIC, _ROUNDINGS = 1e-3, 8
_WAY_OUT = "Pass G @ G.T, where row t of G is the gradient of task t."


def check_gramian(gramian: Any, *, groups: bool = False, parameter: str = "gramian") -> Tensor:
    """Check a Gramian of task gradients.

    Args:
        gramian: ``[T, T]``: a tensor of real numbers, a NumPy array, or a list of lists.
        groups: It may be ``[..., T, T]``, one Gramian for each group of parameters.
        parameter: The name under which it was given.

    Returns:
        A copy in float64, exactly symmetric, on its own device (on the CPU, where that has no
        float64).

    Raises:
        UsageError: It has another shape or type, holds NaN or infinity, or is the Gramian of no
            vectors: it is not symmetric, or a square on its diagonal is negative.
    """
    given = _as_tensor(parameter, gramian)
    square = given.ndim >= 2 and given.shape[-1] == given.shape[-2]
    if not square or (given.ndim != 2 and not groups):
        shape = "square matrices [..., T, T]" if groups else "a square matrix [T, T]"
        raise UsageError(parameter, f"must be {shape}", list(given.shape), _WAY_OUT)
    if given.numel() == 0:
        raise UsageError(parameter, "must be of at least one task", list(given.shape), _WAY_OUT)
    matrix = given.detach().to(exact_device(given.device)).to(torch.float64)
    squares = matrix.diagonal(dim1=-2, dim2=-1)
    if not bool(torch.isfinite(matrix).all()):
        broken = ~torch.isfinite(squares).reshape(-1, squares.shape[-1]).all(dim=0)
        tasks = broken.nonzero().flatten().tolist()
        raise UsageError(
            parameter,
            "must hold finite numbers",
            f"not finite for tasks {tasks}" if tasks else "not finite off its diagonal",
            "Look for NaN or inf in these tasks' losses.",
        )
    lengths = squares.clamp_min(0.0).sqrt()
    if bool((squares < -_SYMMETRIC * squares.abs().amax(dim=-1, keepdim=True)).any()):
        raise UsageError(
            parameter,
            "must have no negative number on its diagonal, which holds the squared lengths of the "
            "gradients",
            float(squares.min()),
            _WAY_OUT,
        )
    epsilon = torch.finfo(given.dtype).eps if given.is_floating_point() else 0.0
    allowed = max(_SYMMETRIC, _ROUNDINGS * epsilon) * lengths[..., :, None] * lengths[..., None, :]
    # Where a length has been lost in the dtype (1e-25 squared, in float32), nothing is known.
    unknown = allowed == 0
    apart = (matrix - matrix.mT).abs()
    if bool(((apart > allowed) & ~unknown).any()):
        raise UsageError(
            parameter,
            "must be symmetric, since a dot product is the same both ways",
            f"entries (i, j) and (j, i) that differ by {float(apart.max()):g}",
            _WAY_OUT,
        )
    # A matrix product may round (i, j) and (j, i) to either side of 0, so that one would conflict
    # with the other and not the other with it.
    matrix = (matrix + matrix.mT) / 2
    _check_positive(parameter, matrix.cpu(), max(_SYMMETRIC, _ROUNDINGS * epsilon))
    return matrix


def of_gramian(gramian: Any, solve: Callable[[Tensor], Tensor]) -> Tensor:
    """Check a Gramian, and find its weights.

    Args:
        gramian: As for :func:`check_gramian`.
        solve: Makes weights ``[T]`` of the Gramian in float64, on the CPU.

    Returns:
        ``[T]``, on the Gramian's device (on the CPU, where that has no float64).
    """
    matrix = check_gramian(gramian)
    return solve(matrix.cpu()).to(matrix.device)


def check_number(
    parameter: str, value: Any, least: float, most: float = math.inf, way_out: str = ""
) -> float:
    """Check a finite number in a range.

    Raises:
        UsageError: It is none.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:
        rule = f"from {least:g} to {most:g}" if math.isfinite(most) else f"of at least {least:g}"
        raise UsageError(parameter, f"must be a finite number {rule}", value, way_out)
    return float(value)


def check_count(parameter: str, value: Any) -> int:
    """Check a whole number of at least 1.

    Raises:
        UsageError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise UsageError(parameter, "must be a whole number of at least 1", value, "1 is usual.")
    return int(value)


def check_preference(preference: Any, tasks: int) -> Tensor:
    """Check how much each task counts.

    Returns:
        ``[T]``, float64, on the CPU.

    Raises:
        UsageError: They are not T finite numbers of at least 0.
    """
    try:
        found = torch.tensor([float(one) for one in preference], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        found = torch.full((tasks,), math.nan)
    if list(found.shape) != [tasks] or not bool((found.isfinite() & (found >= 0)).all()):
        raise UsageError(
            "preference",
            f"must be {tasks} finite numbers of at least 0, one per task",
            preference,
            "Leave it out, and all tasks count alike.",
        )
    return found


def check_same_shape(gramian: Tensor, before: Tensor) -> None:
    """Check that a weighting that keeps a state is given as many tasks as before.

    Args:
        gramian: ``[..., T, T]``.
        before: A Gramian of a step before, or what is kept in its shape.

    Raises:
        UsageError: The shapes differ.
    """
    if gramian.shape != before.shape:
        raise UsageError(
            "gramian",
            f"must have the shape {list(before.shape)}, as in the step before",
            list(gramian.shape),
            "This weighting keeps a state for each task: give it all tasks in every step, and call "
            "reset() before it is used for others.",
        )


def check_orders(orders: Any, tasks: int) -> list[list[int]]:
    """Check the orders in which tasks are compared.

    Raises:
        UsageError: They are not T lists, of the same length, of tasks' places from 0 to T - 1.
    """
    way_out = f"For two tasks write [[1], [0]]; here there are {tasks}."
    rule = f"must be {tasks} lists of the same length, of places of tasks from 0 to {tasks - 1}"
    try:
        found = [[_place(one, tasks) for one in order] for order in orders]
    except (TypeError, ValueError) as error:
        raise UsageError("orders", rule, orders, way_out) from error
    if len(found) != tasks or len({len(order) for order in found}) > 1:
        raise UsageError("orders", rule, orders, way_out)
    return found


def check_task(task: object, tasks: Sequence[str]) -> None:
    """Check the name of a task.

    Raises:
        UsageError: It is none of theirs.
    """
    if task not in tasks:
        raise UsageError(
            "task", f"must be one of {', '.join(map(repr, tasks))}", task, "Write it as there."
        )


def check_tasks(tasks: Any) -> tuple[str, ...]:
    """Check the names of all tasks.

    Raises:
        UsageError: They are not texts, or one stands there twice, or there is none, or one is unfit
            for a module's name.
    """
    names = () if isinstance(tasks, str) else tuple(tasks)
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
        raise UsageError(
            "tasks",
            "must be a list of the tasks' names, each another",
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
    way_out = "Write {task: loss}; leave a task without labels in this step out."
    if not isinstance(losses, Mapping):
        count = len(losses) if isinstance(losses, Sequence | Tensor) and _has_length(losses) else 1
        raise UsageError(
            "losses",
            f"must be a dict with a scalar loss by each task's name, of {len(tasks)} tasks",
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
    """Check losses that stand in one tensor.

    Raises:
        UsageError: They are not a tensor with one number for each task that is present.
    """
    if not isinstance(losses, Tensor) or list(losses.shape) != [len(tasks)]:
        raise UsageError(
            "losses",
            f"must be a tensor [{len(tasks)}], one loss for each of {', '.join(map(repr, tasks))}",
            list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__,
            "Stack them in the order of the tasks.",
        )


def loss_values(parameter: str, losses: Any, tasks: int | None = None) -> Tensor:
    """Check the numbers of a step's losses.

    Args:
        parameter: The name under which they were given.
        losses: A tensor ``[T]``, a list of numbers or scalars, or a dict with these as values.
        tasks: T, if it is known.

    Returns:
        ``[T]``, float64, on the CPU, without a graph.

    Raises:
        UsageError: They are not T finite numbers of at least 0.
    """
    values = list(losses.values()) if isinstance(losses, Mapping) else losses
    try:
        if not isinstance(values, Tensor):
            values = torch.tensor([float(value) for value in values], dtype=torch.float64)
        found = values.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_losses(parameter, losses, tasks) from error
    known = found.ndim == 1 and len(found) > 0 and len(found) == (tasks or len(found))
    if not known or not bool((found.isfinite() & (found >= 0)).all()):
        raise _no_losses(parameter, losses, tasks)
    return found


def _no_losses(parameter: str, losses: Any, tasks: int | None) -> UsageError:
    return UsageError(
        parameter,
        f"must be {tasks or 'T'} finite numbers of at least 0, one per task",
        losses,
        "Pass a list, a tensor [T], or a dict in the order of the tasks.",
    )


def _check_positive(parameter: str, matrix: Tensor, allowed: float) -> None:
    """Check that a symmetric matrix is the Gramian of some vectors.

    Raises:
        UsageError: Some combination of them would have a negative square.
    """
    lengths = matrix.diagonal(dim1=-2, dim2=-1).clamp_min(0.0).sqrt()
    units = torch.where(lengths > 0, 1 / lengths, 0.0)
    least = torch.linalg.eigvalsh(units[..., :, None] * matrix * units[..., None, :]).min()
    if least < -allowed * matrix.shape[-1]:
        raise UsageError(
            parameter,
            "must have no negative eigenvalue, since it holds the dot products of vectors",
            f"dot products that would be cosines of an eigenvalue of {float(least):.3g}",
            _WAY_OUT,
        )


def _has_length(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.ndim > 0


def _place(value: Any, tasks: int) -> int:
    if isinstance(value, bool) or not 0 <= int(value) < tasks or int(value) != value:
        raise ValueError(value)
    return int(value)


def _as_tensor(parameter: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        found = value
    else:
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "iufb":
                raise TypeError(f"an array of {array.dtype}")
            found = torch.as_tensor(array.astype(np.float64) if array.dtype.kind != "b" else array)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(
                parameter, "must be a matrix of numbers [T, T]", value, _WAY_OUT
            ) from error
    found = found.to_dense() if found.layout != torch.strided else found
    if found.dtype == torch.bool or found.is_complex():
        raise UsageError(parameter, "must hold real numbers", str(found.dtype), _WAY_OUT)
    return found
