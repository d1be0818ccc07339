"""A training step of only those tasks that have labels in the batch.

The weighting runs as if the model had no other tasks: it is given their losses, reads their names
and number, and of its state from step to step it sees the part that belongs to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.missing_labels.weightings import kept_by
from libmtl_recon.integrations.libmtl.step.step import step_of

_HISTORY = "train_loss_buffer"
_GONE = object()


def of_present_tasks(proceed: Callable[..., Any], model: Any, /, losses: Any, **kwargs: Any) -> Any:
    """Leave absent tasks out of a weighting's ``backward``.

    Parameters that no present task reaches get no gradient, so that the optimiser skips them; if
    no task is present, these are all parameters. The weights of absent tasks are NaN.
    """
    step, tasks = step_of(model), model.task_num
    present = step.present
    try:
        if present is None:
            shown = _history(model, losses, range(tasks))
            with _overlaid(model, shown) if shown else nullcontext():
                return proceed(model, losses, **kwargs)
        for parameter in model.parameters():
            # LibMTL's main branch has zeroed them, and zeros would cause decay and momentum steps.
            parameter.grad = None
        if not present:
            return np.full(tasks, math.nan)
        part = step.part_of(losses)
        with _only(model, present, part):
            weights = proceed(model, part, **kwargs)
        return _spread(weights, present, tasks)
    finally:
        step.forget_tasks()
        step.close()


def _spread(weights: Any, present: Sequence[int], tasks: int) -> Any:
    if weights is None:
        return None
    spread = np.full(tasks, math.nan)
    spread[list(present)] = weights
    return spread


@contextmanager
def _only(model: Any, present: Sequence[int], losses: Tensor) -> Iterator[None]:
    """Show the model's weighting the present tasks only."""
    own, kept, tasks = vars(model), kept_by(model), model.task_num
    names = [model.task_name[index] for index in present]
    places = torch.tensor(list(present), device=losses.device)
    shown: dict[str, Any] = {"task_name": names, "task_num": len(names)}
    shown |= _history(model, losses, present)
    shown |= {name: getattr(model, name)[places] for name in kept.parameters}
    shown |= dict.fromkeys(kept.sized, _GONE)
    shown |= {name: own[name][list(present)] for name in kept.arrays}
    full = {name: own.get(name) for name in (*kept.tensors, *kept.arrays)}
    for name, dimensions in kept.tensors.items():
        if full[name] is not None:
            shown[name] = full[name][_cells(places, dimensions)]
    if model.rep_grad and isinstance(model.rep, dict):
        shown["rep"] = {name: model.rep[name] for name in names}
    if len(names) == 1 and hasattr(model, "_find_min_norm_element"):
        # LibMTL's MGDA looks for it in pairs of gradients.
        shown["_find_min_norm_element"] = lambda gradients: gradients.new_ones(1)
    after: dict[str, Any] = {}
    with _overlaid(model, shown):
        yield
        after = {name: own.get(name) for name in (*kept.tensors, *kept.arrays)}
    for name, dimensions in kept.tensors.items():
        part, whole = after[name], full[name]
        if part is not None:
            if whole is None:
                whole = part.new_zeros((tasks,) * dimensions + part.shape[dimensions:])
            whole[_cells(places, dimensions)] = part
            own[name] = whole
    for name in kept.arrays:
        # A copy, because the old one may be in the result of `backward`.
        own[name] = full[name].copy()
        own[name][list(present)] = after[name]


def _cells(places: Tensor, dimensions: int) -> tuple[Tensor, ...]:
    return (places,) if dimensions == 1 else (places[:, None], places[None, :])


@contextmanager
def _overlaid(model: Any, shown: dict[str, Any]) -> Iterator[None]:
    """Make these attributes hide the model's own, including its parameters."""
    own = vars(model)
    hidden = {name: own.get(name, _GONE) for name in shown}
    _put(own, shown)
    try:
        yield
    finally:
        _put(own, hidden)


def _put(own: dict[str, Any], values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is _GONE:
            own.pop(name, None)
        else:
            own[name] = value


def _history(model: Any, losses: Tensor, present: Sequence[int]) -> dict[str, Any]:
    """Return the present tasks' mean training losses, if they differ from the Trainer's record.

    In an epoch in which a task had no label its mean is NaN. It is replaced by the last mean
    before, or else the first after, or else (no label until now) this step's loss.
    """
    noted: NDArray[np.float64] | None = getattr(model, _HISTORY, None)
    past = getattr(model, "epoch", 0)
    if noted is None or not isinstance(noted, np.ndarray):
        return {}
    gaps = bool(np.isnan(noted[:, :past]).any())
    if not gaps and len(present) == len(noted):
        return {}
    shown = noted[list(present)]
    if gaps:
        now = losses.detach().reshape(-1, len(shown))[-1].tolist()
        for row, loss in zip(shown, now, strict=True):
            row[:past] = _filled(row[:past], loss)
    return {_HISTORY: shown}


def _filled(means: NDArray[np.float64], loss: float) -> NDArray[np.float64]:
    known = np.flatnonzero(~np.isnan(means))
    if len(known) == 0:
        return np.full_like(means, loss)
    # For each epoch the last mean known up to it; before the first mean, the first.
    last = np.searchsorted(known, np.arange(len(means)), side="right") - 1
    filled: NDArray[np.float64] = means[known[last.clip(min=0)]]
    return filled
