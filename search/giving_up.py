"""End trainings early, by Optuna's pruners on the search's own trials."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from libmtl_recon_search.board import repeats
from libmtl_recon_search.config import Config
from libmtl_recon_search.constructors import said
from libmtl_recon_search.curves import curve_of
from libmtl_recon_search.front import parameters_of
from libmtl_recon_search.judge import COSTS, Judge
from libmtl_recon_search.samplers import make_pruner
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from libmtl_recon import ReconError

# Hyperband sorts trials into brackets by the study's name and by their numbers.
_NAME = "search"


class Pruning:
    """The pruner of a search.

    Args:
        config: The configuration.
        judge: The judge with the objectives.
        epochs: The number of epochs of a training.
    """

    def __init__(self, config: Config, judge: Judge, epochs: int) -> None:
        self._pruner = make_pruner(config, epochs)
        self._direction = judge.direction(judge.lead)
        self._by_size = any(name in COSTS for name in judge.names)
        self._lock = threading.Lock()  # pruners are not thread-safe

    def watch(self, number: int) -> Watch:
        """Return the watch of one trial's training."""
        return Watch(self, number)

    def comparable(self, trial: FrozenTrial, parameters: int) -> bool:
        """Return whether a training is compared with another trial's.

        If a cost of the network is an objective, it is only compared with networks that are not
        larger, since a worse but smaller network may still be on the front.
        """
        if repeats(trial) or not (curve_of(trial) or trial.system_attrs):
            return False
        return not self._by_size or parameters_of(trial) <= parameters

    def study(self, storage: InMemoryStorage) -> optuna.Study:
        """Create an empty study for the pruner."""
        return optuna.create_study(storage=storage, study_name=_NAME, direction=self._direction)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Ask the pruner.

        Raises:
            ReconError: The pruner, which may be of any package, failed.
        """
        with self._lock:
            try:
                return self._pruner.prune(study, trial)
            except Exception as error:
                raise ReconError(
                    f"The pruner {type(self._pruner).__name__} could not judge a trial: "
                    f"{said(error)}. Use another one, or give it other `args`."
                ) from error


class Watch:
    """The decision, epoch by epoch, whether one training is ended early.

    The pruner gets a study in memory in which each trial has the same number as in the search's
    study, and which is only created again when another trial has changed.

    Attributes:
        kept: The data that the pruner stores in this trial, such as successive halving's rungs.
    """

    def __init__(self, pruning: Pruning, number: int) -> None:
        self._pruning, self._number = pruning, number
        self._reached: dict[int, float] = {}
        self.kept: dict[str, Any] = {}
        self._seen: object = None
        self._storage = InMemoryStorage()
        self._study: optuna.Study | None = None
        self._trial_id = 0

    def gives_up(
        self, before: Iterable[FrozenTrial], epoch: int, value: float, parameters: int
    ) -> bool:
        """Return whether the training is ended after an epoch.

        Args:
            before: The search's trials.
            epoch: The epoch, counted from 0.
            value: The best lead so far.
            parameters: The network's number of parameters.
        """
        others = {
            trial.number: trial
            for trial in before
            if trial.number != self._number and self._pruning.comparable(trial, parameters)
        }
        seen = {number: (t.state, len(t.system_attrs)) for number, t in others.items()}
        self._reached[epoch] = value
        if self._study is None or seen != self._seen:
            self._seen, self._study = seen, self._filled(others)
        else:
            self._storage.set_trial_intermediate_value(self._trial_id, epoch, value)
        pruned = self._pruning.prune(self._study, self._storage.get_trial(self._trial_id))
        self.kept = dict(self._storage.get_trial(self._trial_id).system_attrs)
        return pruned

    def _filled(self, others: Mapping[int, FrozenTrial]) -> optuna.Study:
        self._storage = InMemoryStorage()
        study = self._pruning.study(self._storage)
        for number in range(max((self._number, *others)) + 1):
            if number == self._number:
                made = create_trial(
                    state=TrialState.RUNNING,
                    intermediate_values=dict(self._reached),
                    system_attrs=dict(self.kept),
                )
            elif number in others:
                made = _bare(others[number])
            else:
                made = create_trial(state=TrialState.FAIL)  # for trials not compared
            study.add_trial(made)
        self._trial_id = study.get_trials(deepcopy=False)[self._number]._trial_id
        return study


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """Return the data of a trial for a pruner: the lead after each epoch."""
    value, curve = None, curve_of(trial)
    if trial.state == TrialState.COMPLETE:
        last = max(curve, default=None)
        if last is None:
            return create_trial(state=TrialState.FAIL)
        value = curve[last]
    return create_trial(
        state=trial.state,
        value=value,
        intermediate_values=curve,
        system_attrs=dict(trial.system_attrs),
    )
