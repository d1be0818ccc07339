"""Opening a search's Optuna study, an SQLite file that other programs may use, lock, or damage."""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from libmtl_recon_search.trouble import GOES_ON, first_line, machine_error, set_aside
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from libmtl_recon import ReconError

NAME = "libmtl-recon"
_SEARCH = "search"
_WAIT = 30.0  # seconds for which another program may hold the database
_HELD = 20.0  # the same while the study is at work; Optuna tries some things five times
_TAKEN = (
    "What the new one chooses is trained unless it was trained before: finished runs are taken."
)
_TURN = 1.0  # seconds between looks while it does, in which Ctrl-C is not heard


class StudyFile:
    """The study of one search, and what Optuna's study has no method for.

    A trial is written by one transaction, with all that it needs to be gone on with.

    Args:
        file: The SQLite file. One that is damaged, or of another search, is set aside.
        identity: A digest of the search; nothing takes any study.
        say: Told what is not as it should be.

    Raises:
        MachineError: The file is locked, or cannot be read or written.
        ReconError: Another version of Optuna wrote it.
    """

    def __init__(self, file: Path, identity: str, say: Callable[[str], None]) -> None:
        # Optuna would say the same again, and in its own words.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._file, self._identity, self._say = file, identity, say
        self._ended_by_others: set[int] = set()
        if file.exists() and not file.stat().st_size:
            say(f"The study {file} is empty, so it is begun again. {_TAKEN}")
        _wait_for(file, say)
        try:
            self._open()
            why = self._of_another_search()
        except Exception as error:  # noqa: BLE001  # Optuna stumbles over anything in it
            _refuse_what_is_not_damaged(error, file)
            why = f"is damaged ({first_line(error)})"
        if why:
            self._begin_anew(why)
        if identity:
            self.study.set_user_attr(_SEARCH, identity)

    def add(self, trial: FrozenTrial) -> int:
        """Add a trial; returns its number.

        Raises:
            ReconError: Another program has taken a name of the trial's for something else.
        """
        storage = self._storage
        try:
            return storage.get_trial(storage.create_new_trial(self._id, trial)).number
        except ValueError as error:
            raise ReconError(
                f"Another program has just added trials to {self._file} with which this search's "
                f"cannot be together: {first_line(error)}. {GOES_ON} It sets that study aside."
            ) from error

    def report(self, number: int, value: float, epoch: int) -> None:
        """Write down what a trial had reached after an epoch."""
        with self._unless_ended(number):
            self._storage.set_trial_intermediate_value(self._trial(number), epoch, value)

    def note(self, number: int, key: str, value: Any) -> None:
        """Write an attribute of a trial that has not ended."""
        with self._unless_ended(number):
            self._storage.set_trial_user_attr(self._trial(number), key, value)

    def tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        """End a trial."""
        values = None if value is None else [value]
        with self._unless_ended(number):
            self._storage.set_trial_state_values(self._trial(number), state, values)

    def begin(self, waiting: FrozenTrial, chosen: FrozenTrial) -> bool:
        """Turn a waiting trial into a running one with chosen parameters and attributes.

        Returns:
            False if another program was faster.
        """
        trial = self._trial(waiting.number)
        for name in chosen.params.keys() - waiting.params.keys():
            distribution = chosen.distributions[name]
            value = distribution.to_internal_repr(chosen.params[name])
            self._storage.set_trial_param(trial, name, value, distribution)
        for key, attribute in chosen.user_attrs.items():
            self._storage.set_trial_user_attr(trial, key, attribute)
        return self._storage.set_trial_state_values(trial, TrialState.RUNNING)

    def renew(self, why: str, keep: Sequence[FrozenTrial]) -> None:
        """Set the file aside, and begin another with these of its trials."""
        self._begin_anew(why)
        if self._identity:
            self.study.set_user_attr(_SEARCH, self._identity)
        self.study.add_trials(keep)

    def close(self) -> None:
        """Let go of the file, which is then whole without its log."""
        if hasattr(self, "_storage"):
            self._storage.remove_session()
            self._storage.engine.dispose()

    @contextmanager
    def _unless_ended(self, number: int) -> Iterator[None]:
        """Leave a trial as it is that another program has ended, and say so once."""
        try:
            yield
        except UpdateFinishedTrialError:
            if number not in self._ended_by_others:
                self._ended_by_others.add(number)
                self._say(
                    f"Trial {number} was ended by another program while this search was at it, and "
                    "is left as it is."
                )

    @property
    def _id(self) -> int:
        return self._storage.get_study_id_from_name(NAME)

    def _trial(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)

    def _open(self) -> None:
        with closing(sqlite3.connect(self._file, timeout=_WAIT)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            # Optuna's dashboard, or a curious user, may read while the search writes.
            connection.execute("PRAGMA journal_mode=WAL")
        self._storage = optuna.storages.RDBStorage(
            f"sqlite:///{self._file.absolute()}",
            engine_kwargs={"connect_args": {"timeout": _HELD}},
        )
        self.study = optuna.create_study(
            study_name=NAME, storage=self._storage, load_if_exists=True, direction="maximize"
        )
        self.study.get_trials(deepcopy=False)

    def _of_another_search(self) -> str:
        of = self.study.user_attrs.get(_SEARCH)
        return "is of another search" if self._identity and of not in (None, self._identity) else ""

    def _begin_anew(self, why: str) -> None:
        # SQLite would take away the new file's log where it closes the old one later.
        self.close()
        gc.collect()
        aside = set_aside(self._file)
        self._say(f"The study {self._file} {why}. It was set aside as {aside.name}. {_TAKEN}")
        self._open()


def _wait_for(file: Path, say: Callable[[str], None]) -> None:
    """Wait until nobody holds the database."""
    until, said = time.monotonic() + _WAIT, False
    while True:
        try:
            with closing(sqlite3.connect(file, timeout=_TURN)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            return
        except sqlite3.Error as error:
            busy = "locked" in str(error)
            if not busy or time.monotonic() > until:
                _refuse_what_is_not_damaged(error, file)
                return  # opening it says what is damaged
        if not said:
            say(f"{file} is locked by another program; waiting up to {_WAIT:g} seconds for it.")
            said = True


def _refuse_what_is_not_damaged(error: Exception, file: Path) -> None:
    found = machine_error(error, file)
    if found is not None:
        raise found from error
    if isinstance(error, RuntimeError) and "version" in str(error) and _has_trials(file):
        raise ReconError(
            f"{file} was written by another version of Optuna: {first_line(error)}. Install that "
            "version, or name another folder with --out."
        ) from error


def _has_trials(file: Path) -> bool:
    """Whether there is anything in a database, whose tables may be Optuna's."""
    try:
        with closing(sqlite3.connect(file, timeout=_WAIT)) as connection:
            return bool(connection.execute("SELECT count(*) FROM trials").fetchone()[0])
    except sqlite3.DatabaseError:
        return False
