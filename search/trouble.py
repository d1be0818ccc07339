"""Failures of the machine: a full disk, a locked database, damaged files.

A full disk or a locked database damages nothing: the same command continues once there is room.
Damaged files are set aside and created again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from libmtl_recon import ReconError

GOES_ON = "Finished runs are kept: the same command then resumes where it stopped."

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FULL, _BUSY, _SYSTEM = "full", "busy", "system"
# SQLite's result codes, and its message for each, for errors without a code.
_KINDS = (
    (13, "database or disk is full", _FULL),
    (5, "database is locked", _BUSY),
    (6, "database table is locked", _BUSY),
    (10, "disk I/O error", _SYSTEM),
    (14, "unable to open database file", _SYSTEM),
    (8, "attempt to write a readonly database", _SYSTEM),
)


class MachineError(ReconError):
    """The machine stops the search from continuing; no run is at fault, nothing is damaged."""


def machine_error(error: BaseException, where: Path) -> MachineError | None:
    """Return the message for an error that the machine caused; None for other errors.

    Args:
        error: The exception, possibly caused by another one.
        where: The search's folder, or a file in it.
    """
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            break
        found = _of_database(seen, where) if isinstance(seen, sqlite3.Error) else None
        found = _of_system(seen, where) if isinstance(seen, OSError) else found
        if found is not None:
            return found
        seen = getattr(seen, "orig", None) or seen.__cause__ or seen.__context__
    return None


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Convert errors of the machine to one message.

    Raises:
        MachineError: A disk is full, or a file cannot be read or written, or is locked.
        ReconError: The study's database was damaged during the search.
    """
    try:
        yield
    except (OSError, sqlite3.Error, SQLAlchemyError, StorageInternalError) as error:
        found = machine_error(error, folder)
        if found is not None:
            raise found from error
        raise ReconError(
            f"The study in {folder} can no longer be used: {first_line(error)}. {GOES_ON} It "
            "renames damaged files, and reuses the finished runs."
        ) from error


def said_no_room(text: str) -> bool:
    """Return whether a program's last output reports a full disk."""
    return any(os.strerror(number) in text for number in _NO_ROOM)


def set_aside(file: Path) -> Path:
    """Rename a damaged file, with a database's other files, to ``*.damaged-N``; return the name."""
    taken = (file.with_name(f"{file.name}.damaged-{number}") for number in count(1))
    aside = next(name for name in taken if not name.exists())
    file.replace(aside)
    for more in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            file.with_name(file.name + more).replace(aside.with_name(aside.name + more))
    return aside


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _of_system(error: OSError, where: Path) -> MachineError:
    said = error.strerror or first_line(error)
    place = error.filename or where
    if error.errno in _NO_ROOM:
        return MachineError(
            f"Cannot write to {place}: {said}. Make room there (if a file is too large, raise "
            f"the limit shown by `ulimit -f`). {GOES_ON}"
        )
    return MachineError(
        f"Cannot use {place}: {said}. Fix that, or give another folder with --out. {GOES_ON}"
    )


def _of_database(error: sqlite3.Error, where: Path) -> MachineError | None:
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    said = first_line(error)
    kind = next((kind for number, text, kind in _KINDS if code == number or text in said), None)
    if kind == _FULL:
        return MachineError(
            f"Cannot write the study in {where}: {said}. Make room on that disk. {GOES_ON}"
        )
    if kind == _BUSY:
        return MachineError(
            f"The study in {where} is locked by another program ({said}), for example a database "
            "browser, a backup, or a study of your own. It is not damaged. End that program, or "
            f"wait until it releases the lock. {GOES_ON}"
        )
    if kind == _SYSTEM:
        return MachineError(
            f"The study in {where} cannot be read or written ({said}): check that the disk is "
            "mounted and not full, that you may write to the folder, and the limit shown by "
            f"`ulimit -f`. {GOES_ON}"
        )
    return None
