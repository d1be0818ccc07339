"""The store of a search's Optuna study, with operations that Optuna's study lacks."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from libmtl_recon_search.curves import CURVE, longer
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial


def open_study(storage: RDBStorage, name: str, directions: Sequence[str]) -> optuna.Study:
    """Open the study of a name; create it if there is none.

    Args:
        storage: The storage.
        name: The name of the study.
        directions: The directions of the objectives of a new study: ``maximize`` or ``minimize``.
    """
    found = [optuna.study.StudyDirection[direction.upper()] for direction in directions]
    return optuna.create_study(
        study_name=name, storage=storage, load_if_exists=True, directions=found
    )


def name_objectives(study: optuna.Study, names: Sequence[str]) -> None:
    """Make figures and dashboards show the names of the objectives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(names))


class StudyStore(ABC):
    """The study of one search, whose trials are identified by their numbers.

    A trial is written in one transaction, with all data needed to continue it.

    Args:
        say: A function that is called with warnings.

    Attributes:
        study: The Optuna study, for reading.
        shared: Whether other workers may work on the same search.
    """

    study: optuna.Study
    shared: bool
    _storage: RDBStorage
    _study_id: int  # the study's id in the storage

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._ended_by_others: set[int] = set()
        self._curves: dict[int, dict[str, Any]] = {}
        self._ids: dict[int, int] = {}  # the trials' ids in the storage

    def add(self, trial: FrozenTrial) -> int:
        """Add a trial, and return its number.

        Raises:
            ReconError: Another program uses a parameter name of the trial with a different space.
        """
        try:
            trial_id = self._storage.create_new_trial(self._study_id, trial)
        except ValueError as error:
            raise self._cannot_be_together(error) from error
        number = self._storage.get_trial(trial_id).number
        self._ids[number] = trial_id
        return number

    def report(self, number: int, value: float, epoch: int) -> None:
        """Record the lead of a trial after an epoch."""
        if len(self.study.directions) > 1:
            self._curves[number] = longer(self._curves.get(number), epoch, value)
            self.note(number, CURVE, self._curves[number])
            return
        with self._unless_ended(number):
            self._storage.set_trial_intermediate_value(self._trial(number), epoch, value)

    def note(self, number: int, key: str, value: Any) -> None:
        """Set an attribute of a trial that has not ended."""
        with self._unless_ended(number):
            self._storage.set_trial_user_attr(self._trial(number), key, value)

    def constrain(self, number: int, violations: Mapping[str, float]) -> None:
        """Record the violations of the constraints, 0 or less if one is satisfied."""
        # Where Optuna keeps them is not specified, so its own result is written unchanged.
        made = create_trial(state=TrialState.RUNNING, constraints=dict(violations))
        self.keep(number, made.system_attrs)

    def keep(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Record the data that a sampler or a pruner stores in a trial."""
        with self._unless_ended(number):
            for key, value in attributes.items():
                self._storage.set_trial_system_attr(self._trial(number), key, value)

    def tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        """End a trial, with one value per objective if it is complete."""
        with self._unless_ended(number):
            self._storage.set_trial_state_values(self._trial(number), state, values)

    def begin(self, waiting: FrozenTrial, chosen: FrozenTrial) -> bool:
        """Turn a waiting trial into a running one with chosen parameters and attributes.

        Returns:
            False if another program was faster.
        """
        trial_id = self._trial(waiting.number)
        self._write(trial_id, waiting, chosen)
        return self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)

    @abstractmethod
    def renew(self, why: str, keep: Sequence[FrozenTrial]) -> None:
        """Create another study with these trials, because none can be added to this one.

        Raises:
            ReconError: Other workers use it.
        """

    @abstractmethod
    def lost(self, number: int) -> bool:
        """Return whether another worker has ended a running trial of this one as stale."""

    @abstractmethod
    def sweep(self) -> None:
        """Fail the running trials of workers that are gone."""

    @abstractmethod
    def close(self) -> None:
        """Close the study."""

    @abstractmethod
    def _cannot_be_together(self, error: ValueError) -> Exception:
        """Return the error for incompatible trials of another program."""

    @property
    def _found_directions(self) -> list[str]:
        return [direction.name.lower() for direction in self.study.directions]

    @contextmanager
    def _unless_ended(self, number: int) -> Iterator[None]:
        """Leave a trial unchanged if another program has ended it, and report this once."""
        try:
            yield
        except UpdateFinishedTrialError:
            if number not in self._ended_by_others:
                self._ended_by_others.add(number)
                self._say(
                    f"Trial {number} was ended by another program while this search was training "
                    "it, and is not changed."
                )

    def _write(self, trial_id: int, there: FrozenTrial, chosen: FrozenTrial) -> None:
        """Record the choices of a trial that are not recorded yet."""
        for name in chosen.params.keys() - there.params.keys():
            distribution = chosen.distributions[name]
            value = distribution.to_internal_repr(chosen.params[name])
            self._storage.set_trial_param(trial_id, name, value, distribution)
        for key, attribute in chosen.system_attrs.items():
            self._storage.set_trial_system_attr(trial_id, key, attribute)
        # Last, since these attributes identify a trial as one of the search.
        for key, attribute in chosen.user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, key, attribute)

    def _trial(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(
                self._study_id, number
            )
        return self._ids[number]
