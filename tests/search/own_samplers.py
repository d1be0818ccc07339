"""Samplers and pruners of a user's own, to be found by their import path."""

from __future__ import annotations

from typing import Any

import optuna


class Careful(optuna.samplers.RandomSampler):
    """Refuses a width of zero, and more than one objective."""

    def __init__(self, width: int, seed: int | None = None, **more: Any) -> None:
        if width == 0:
            raise ValueError("a width of zero")
        super().__init__(seed)
        self.width, self.given, self.more = width, seed, more

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        if len(study.directions) > 1:
            raise ValueError("one objective, please.")
        return {}


class Never(optuna.pruners.BasePruner):
    """Ends no trial."""

    def prune(self, study: Any, trial: Any) -> bool:
        return False


class Broken(optuna.pruners.BasePruner):
    """Cannot look at a trial."""

    def prune(self, study: Any, trial: Any) -> bool:
        raise KeyError("epoch")


class Half(optuna.pruners.BasePruner):
    """Has no method to look at trials."""


class Late(optuna.pruners.BasePruner):
    """Fails from the fifth epoch on."""

    def prune(self, study: Any, trial: Any) -> bool:
        if trial.last_step > 3:
            raise LookupError("too late")
        return False


class Tired(optuna.samplers.RandomSampler):
    """Fails after five trials."""

    def before_trial(self, study: Any, trial: Any) -> None:
        if trial.number > 4:
            raise LookupError("no more")
