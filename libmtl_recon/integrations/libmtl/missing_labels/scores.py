"""LibMTL's meter: metrics of the samples that have a label, NaN for a task of which none has."""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from libmtl_recon.integrations.libmtl.missing_labels.pairs import labelled


class NoScore(list[float]):
    """The scores of a task of which no sample had a label: NaN for each metric."""


class _Pass:
    """Which tasks had labels in one pass over the data."""

    def __init__(self) -> None:
        self.labelled: set[str] = set()
        self.absent: set[str] = set()

    @property
    def unscored(self) -> set[str]:
        """The tasks that were asked for and never had a label."""
        return self.absent - self.labelled


_passes: WeakKeyDictionary[Any, _Pass] = WeakKeyDictionary()


def wrap_meter(record: ModuleType) -> None:
    """Wrap the meter in LibMTL's module ``_record``, and the comparison of results there."""
    meter_class, improvement = record._PerformanceMeter, record.count_improvement
    update, get_score, reinit = meter_class.update, meter_class.get_score, meter_class.reinit

    @functools.wraps(update)
    def wrapped_update(self: Any, preds: Any, gts: Any, task_name: str | None = None) -> None:
        if task_name is not None:
            given = {task_name: (preds, gts)}
        else:
            given = {task: (preds[task], gts[task]) for task in self.task_name}
        now = _passes.setdefault(self, _Pass())
        for task, (pred, gt) in given.items():
            pair = labelled(task, pred, gt)
            if pair is None:
                now.absent.add(task)
            else:
                now.labelled.add(task)
                update(self, *pair, task)

    @functools.wraps(get_score)
    def wrapped_get_score(self: Any) -> None:
        unscored = _passes.setdefault(self, _Pass()).unscored
        if not unscored:
            get_score(self)
            return
        with torch.no_grad():
            for place, task in enumerate(self.task_name):
                if task in unscored:
                    self.results[task] = NoScore([math.nan] * len(self.task_dict[task]["metrics"]))
                    self.loss_item[place] = math.nan
                else:
                    self.results[task] = self.metrics[task].score_fun()
                    self.loss_item[place] = self.losses[task]._average_loss()

    @functools.wraps(reinit)
    def wrapped_reinit(self: Any) -> None:
        _passes.pop(self, None)
        reinit(self)

    @functools.wraps(improvement)
    def wrapped_improvement(base_result: Any, new_result: Any, weight: Any) -> Any:
        # What was not scored is not compared; else no epoch would be better than the first.
        scored = {
            task: scores
            for task, scores in base_result.items()
            if not isinstance(scores, NoScore) and not isinstance(new_result[task], NoScore)
        }
        return improvement(scored, new_result, weight) if scored else math.nan

    meter_class.update, meter_class.get_score = wrapped_update, wrapped_get_score
    meter_class.reinit = wrapped_reinit
    vars(record)["count_improvement"] = wrapped_improvement
