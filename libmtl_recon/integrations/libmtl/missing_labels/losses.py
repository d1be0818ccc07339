"""``Trainer._compute_loss``: each task's loss over the samples that have its label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.integrations.libmtl.missing_labels.pairs import labelled
from libmtl_recon.integrations.libmtl.missing_labels.weightings import refuse_absent_task
from libmtl_recon.integrations.libmtl.step.step import step_of


def of_labelled(
    proceed: Callable[..., Any], trainer: Any, /, preds: Any, gts: Any, task_name: str | None = None
) -> Any:
    """Leave samples without a label out of ``_compute_loss``.

    Where all samples lack a task's label, its loss is NaN, without a graph, and the following step
    is one of the other tasks.
    """
    if trainer.multi_input:
        return _of_one(proceed, trainer, preds, gts, task_name)
    return _of_all(proceed, trainer, preds, gts)


def _of_one(proceed: Callable[..., Any], trainer: Any, pred: Any, gt: Any, task: Any) -> Any:
    pair = labelled(task, pred, gt)
    if pair is not None:
        loss = proceed(trainer, *pair, task)
    else:
        loss = torch.full((), torch.nan, device=trainer.device)
    if torch.is_grad_enabled():
        if pair is None:
            refuse_absent_task(trainer, task)
        place = trainer.task_name.index(task)
        known = {place: None if pair is None else loss}
        step_of(trainer.model).note_tasks(known, trainer.task_num)
    return loss


def _of_all(proceed: Callable[..., Any], trainer: Any, preds: Any, gts: Any) -> Any:
    pairs = {task: labelled(task, preds[task], gts[task]) for task in trainer.task_name}
    found = {task: pair for task, pair in pairs.items() if pair is not None}
    if any(pred is not preds[task] or gt is not gts[task] for task, (pred, gt) in found.items()):
        preds = {task: pred for task, (pred, _) in found.items()}
        gts = {task: gt for task, (_, gt) in found.items()}
    if len(found) == len(pairs):
        _note(trainer, {})
        return proceed(trainer, preds, gts)
    for task in pairs:
        if task not in found and torch.is_grad_enabled():
            refuse_absent_task(trainer, task)
    losses = torch.full((len(pairs),), torch.nan, device=trainer.device)
    places = [place for place, task in enumerate(pairs) if task in found]
    absent = {place: None for place, task in enumerate(pairs) if task not in found}
    if not found:
        _note(trainer, absent)
        return losses
    with _only(trainer, list(found)):
        part: Tensor = proceed(trainer, preds, gts)
    where = torch.tensor(places, device=part.device)
    whole = losses.to(part).scatter(0, where, part)
    _note(trainer, absent)
    if part.requires_grad:
        step_of(trainer.model).note_part(whole, part)
    return whole


def _note(trainer: Any, absent: dict[int, None]) -> None:
    if torch.is_grad_enabled():
        step = step_of(trainer.model)
        step.forget_tasks()
        step.note_tasks(absent, trainer.task_num)


@contextmanager
def _only(trainer: Any, tasks: Sequence[str]) -> Iterator[None]:
    """Show the Trainer these tasks only."""
    everything = trainer.task_name
    trainer.task_name, trainer.task_num = list(tasks), len(tasks)
    try:
        yield
    finally:
        trainer.task_name, trainer.task_num = everything, len(everything)
