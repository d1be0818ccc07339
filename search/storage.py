"""The Optuna study of a search in an SQLite file, which other programs may use, lock, or damage."""

from __future__ import annotations

import gc
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import optuna
from libmtl_recon_search.study_store import StudyStore, open_study
from libmtl_recon_search.trouble import GOES_ON, first_line, machine_error, set_aside
from optuna.trial import FrozenTrial

from libmtl_recon import ReconError

_SEARCH = "search"
_WAIT = 30.0  # seconds for which another program may lock the database
_HELD = 20.0  # the same during the search; Optuna retries some operations five times
_TAKEN = (
    "The choices of the new study are trained unless they were trained before: finished runs "
    "are reused."
)
_TURN = 1.0  # seconds between checks meanwhile, in which Ctrl-C is not handled


class StudyFile(StudyStore):
    """The study of one search in one process, in a file of the search's folder.

    Args:
        file: The SQLite file. A file that is damaged, or of another search, is set aside.
        identity: A digest of the search; empty accepts any study.
        say: A function that is called with warnings.
        directions: The directions of the objectives: ``maximize`` or ``minimize``. A study with
            other directions is set aside as well.
        name: The name of the study.

    Raises:
        MachineError: The file is locked, or cannot be read or written.
        ReconError: Another version of Optuna wrote it.
    """

    shared = False

    def __init__(
        self,
        file: Path,
        identity: str,
        say: Callable[[str], None],
        directions: Sequence[str] = ("maximize",),
        name: str = "search",
    ) -> None:
        super().__init__(say)
        self._file, self._identity, self._directions = file, identity, list(directions)
        self._name = name
        if file.exists() and not file.stat().st_size:
            say(f"The study {file} is empty, so it is created again. {_TAKEN}")
        _wait_for(file, say)
        try:
            self._open()
            why = self._of_another_search()
        except Exception as error:  # noqa: BLE001  # Optuna may raise any error for invalid content
            _refuse_what_is_not_damaged(error, file)
            why = f"is damaged ({first_line(error)})"
        if why:
            self._begin_anew(why)
        if identity:
            self.study.set_user_attr(_SEARCH, identity)

    def renew(self, why: str, keep: Sequence[FrozenTrial]) -> None:
        """Rename the file, and create a new one with these of its trials."""
        self._begin_anew(why)
        if self._identity:
            self.study.set_user_attr(_SEARCH, self._identity)
        self.study.add_trials(keep)

    def lost(self, number: int) -> bool:
        """Return False: the folder is locked, so no other process works here."""
        return False

    def sweep(self) -> None:
        """Do nothing: the folder is locked, so no other process is training a trial."""

    def close(self) -> None:
        """Close the file, which is then complete without its log."""
        if hasattr(self, "_storage"):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def _cannot_be_together(self, error: ValueError) -> ReconError:
        return ReconError(
            f"Another program has just added trials to {self._file} that are incompatible with "
            f"those of this search: {first_line(error)}. {GOES_ON} It then renames that study."
        )

    def _open(self) -> None:
        with closing(sqlite3.connect(self._file, timeout=_WAIT)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            # Optuna's dashboard, or a user, may read while the search writes.
            connection.execute("PRAGMA journal_mode=WAL")
        self._storage = optuna.storages.RDBStorage(
            f"sqlite:///{self._file.absolute()}",
            engine_kwargs={"connect_args": {"timeout": _HELD}},
        )
        self.study = open_study(self._storage, self._name, self._directions)
        self._study_id = self._storage.get_study_id_from_name(self._name)
        self.study.get_trials(deepcopy=False)

    def _of_another_search(self) -> str:
        if self._found_directions != self._directions:
            return "has other objectives"
        of = self.study.user_attrs.get(_SEARCH)
        return (
            "belongs to another search"
            if self._identity and of not in (None, self._identity)
            else ""
        )

    def _begin_anew(self, why: str) -> None:
        # SQLite would remove the new file's log if it closed the old file later.
        self.close()
        self._ids.clear()
        gc.collect()
        aside = set_aside(self._file)
        self._say(f"The study {self._file} {why}. It was renamed to {aside.name}. {_TAKEN}")
        self._open()


def _wait_for(file: Path, say: Callable[[str], None]) -> None:
    """Wait until the database is not locked."""
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
                return  # opening it reports the damage
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
            "version, or give another folder with --out."
        ) from error


def _has_trials(file: Path) -> bool:
    """Return whether a database contains trials, if its tables are those of Optuna."""
    try:
        with closing(sqlite3.connect(file, timeout=_WAIT)) as connection:
            return bool(connection.execute("SELECT count(*) FROM trials").fetchone()[0])
    except sqlite3.DatabaseError:
        return False
