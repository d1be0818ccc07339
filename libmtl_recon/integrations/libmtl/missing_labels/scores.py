"""LibMTL's meter: metrics over the samples that have a label, NaN for a task without labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from libmtl_recon.integrations.libmtl.missing_labels.pairs import labelled
from libmtl_recon.integrations.libmtl.wrapper import Call


class NoScore(list[float]):
    """The scores of a task without any labelled sample: NaN for each metric."""


class _Pass:
    """The tasks that had labels in one pass over the data."""

    def __init__(self) -> None:
        self.labelled: set[str] = set()
        self.absent: set[str] = set()

    @property
    def unscored(self) -> set[str]:
        """Return the tasks that were asked for and never had a label."""
        return self.absent - self.labelled


_passes: WeakKeyDictionary[Any, _Pass] = WeakKeyDictionary()


def update_labelled(
    proceed: Callable[..., None],
    meter: Any,
    /,
    preds: Any,
    gts: Any,
    task_name: str | None = None,
) -> None:
    """Update the metrics of each task with the samples that have its label."""
    if task_name is not None:
        given = {task_name: (preds, gts)}
    else:
        given = {task: (preds[task], gts[task]) for task in meter.task_name}
    now = _passes.setdefault(meter, _Pass())
    for task, (pred, gt) in given.items():
        pair = labelled(task, pred, gt)
        if pair is None:
            now.absent.add(task)
        else:
            now.labelled.add(task)
            proceed(meter, *pair, task)


def score_labelled(proceed: Callable[..., None], meter: Any) -> None:
    """Score the tasks that had labels; NaN for the others."""
    unscored = _passes.setdefault(meter, _Pass()).unscored
    if not unscored:
        proceed(meter)
        return
    with torch.no_grad():
        for place, task in enumerate(meter.task_name):
            if task in unscored:
                meter.results[task] = NoScore([math.nan] * len(meter.task_dict[task]["metrics"]))
                meter.loss_item[place] = math.nan
            else:
                meter.results[task] = meter.metrics[task].score_fun()
                meter.loss_item[place] = meter.losses[task]._average_loss()


def forget_pass(call: Call) -> None:
    """Forget which tasks had labels, for the next pass."""
    _passes.pop(call.owner, None)


def compare_scored(
    proceed: Callable[..., Any], base_result: Any, new_result: Any, weight: Any
) -> Any:
    """Compare two results on the tasks that were scored in both."""
    # Otherwise no epoch would be better than the first.
    scored = {
        task: scores
        for task, scores in base_result.items()
        if not isinstance(scores, NoScore) and not isinstance(new_result[task], NoScore)
    }
    return proceed(scored, new_result, weight) if scored else math.nan
