"""The call of a step's weighting, and the check of its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.weighting.functions import weight_function


class Asked:
    """A weighting.

    Args:
        weighting: As for :func:`libmtl_recon.step`.

    Raises:
        UsageError: It is not a weighting.
    """

    def __init__(self, weighting: Any) -> None:
        if _is_torchjd(weighting):
            # Imported by name, since this package does not depend on adapters. The adapter refuses
            # weightings of the matrix of gradients, which would mistake the Gramian for it.
            torchjd = import_module("libmtl_recon.torchjd")
            self._ask: Callable[..., Any] = partial(torchjd.gramian_weights, weighting)
            self._of_all = False
        else:
            self._ask = weight_function("weighting", weighting)
            # A state covers all tasks.
            self._of_all = self._ask is not weighting
        tasks = getattr(weighting, "tasks", None) if self._of_all else None
        self._tasks = tasks if isinstance(tasks, int) else None
        self._with_losses = self._of_all and "losses" in signature(self._ask).parameters

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Check that there are as many tasks as the weighting's state has.

        Args:
            tasks: The names of all tasks of the step, also of absent ones.

        Raises:
            UsageError: There are not.
        """
        if self._tasks is not None and len(tasks) != self._tasks:
            raise UsageError(
                "losses",
                f"must be {self._tasks}, one per task, since the weighting has a state of "
                f"{self._tasks} tasks",
                f"{len(tasks)}, of {', '.join(map(repr, tasks))}",
                "Pass each task's loss, not their sum, and None for a task that is absent; call "
                "reset() of the weighting before using it for other tasks.",
            )

    def weights(self, gramian: Tensor, losses: Mapping[str, Tensor | None]) -> Tensor:
        """Return the weights of the tasks that are present.

        Args:
            gramian: ``[T, T]``, float64, with zeros for absent tasks.
            losses: T losses by task, None for an absent task.

        Returns:
            One weight per present task, float64, on the CPU.

        Raises:
            ReconError: The weighting does not return as many finite numbers, or needs the losses
                while one is absent.
        """
        places = [place for place, loss in enumerate(losses.values()) if loss is not None]
        present = [task for task, loss in losses.items() if loss is not None]
        with torch.no_grad():
            where = torch.tensor(places, device=gramian.device)
            own = gramian.clone() if self._of_all else gramian[where[:, None], where]
            more = {"losses": _values(losses)} if self._with_losses else {}
            given = self._ask(own, **more)
        found = _checked(given, list(losses) if self._of_all else present, gramian)
        return found[places] if self._of_all else found


def _is_torchjd(weighting: Any) -> bool:
    return any(kind.__module__.partition(".")[0] == "torchjd" for kind in type(weighting).__mro__)


def _values(losses: Mapping[str, Tensor | None]) -> Tensor:
    absent = [task for task, loss in losses.items() if loss is None]
    if absent:
        raise ReconError(
            f"The weighting needs the losses of all tasks in each step, and {absent[0]!r} is "
            "absent. Leave such steps out, or choose a weighting of the Gramian alone."
        )
    values = [float(loss.detach()) for loss in losses.values() if loss is not None]
    return torch.tensor(values, dtype=torch.float64)


def _checked(given: Any, tasks: Sequence[str], gramian: Tensor) -> Tensor:
    named = ", ".join(map(repr, tasks))
    try:
        found = None if isinstance(given, tuple) else torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None:
        shown = type(given).__name__
    else:
        shown = str(found.dtype) if found.is_complex() else str(list(found.shape))
    if found is None or found.is_complex() or found.shape != (len(tasks),):
        raise ReconError(
            f"The weighting must return {len(tasks)} real numbers, one for each of the tasks "
            f"{named}, but returned {shown}. If it keeps a state of another number of tasks, "
            "create a new one."
        )
    found = found.double()
    if not bool(found.isfinite().all()):
        raise ReconError(
            f"The weighting must return finite numbers, but returned {found.tolist()} for the "
            f"tasks {named}. Look for gradients that are zero, or nearly the same, in the Gramian: "
            f"{gramian.tolist()}."
        )
    return found
