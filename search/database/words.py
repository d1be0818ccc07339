"""Interpret a database's errors: whether they are temporary, and the message for the user."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from libmtl_recon_search.database.address import Address
from libmtl_recon_search.trouble import GOES_ON, MachineError
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

_LONGEST = 400  # characters of a driver's message


class StorageError(MachineError):
    """A study's database cannot be used; no run is at fault, and nothing is damaged."""


@dataclass(frozen=True)
class Trouble:
    """A problem with a database.

    Attributes:
        passing: Whether it may be temporary.
        known: Whether its kind is known.
        text: A paragraph with a way out, without secrets.
    """

    passing: bool
    known: bool
    text: str


Kinds = tuple[int | str, ...]
"""PostgreSQL's SQLSTATE, MySQL's error numbers, SQLite's result codes, and words of messages.

Drivers have no code for what is refused before there is a connection.
"""

# Permanent problems, with their messages.
_KNOWN: tuple[tuple[Kinds, str], ...] = (
    (
        (
            "28P01", "28000", 1045, 1698, "password authentication failed", "no password supplied",
            "no pg_hba.conf entry", 'role "[^"]*" does not exist', 'role "[^"]*" is not permitted',
        ),
        "{Where} does not accept this user: {said}. Correct the user name and the password in "
        "the URL, or ask the administrator of the database for access.",
    ),
    (
        ("3D000", 1049, 'database "[^"]*" does not exist'),
        "{Where} does not exist: {said}. Create it (`CREATE DATABASE`), or correct its name, "
        "the last part of the URL.",
    ),
    (
        (
            "failed to resolve host", "could not translate host name", "name or service not known",
            "nodename nor servname", "name resolution", "getaddrinfo failed", "no usable address",
        ),
        "The host of {where} is not known: {said}. Correct its name in the URL.",
    ),
    (
        ("42501", 1142, 1044, 1143, 1227, "permission denied for"),
        "The user of {where} lacks permissions that a study needs: {said}. Make the user the "
        "owner of the database (`ALTER DATABASE … OWNER TO …` in PostgreSQL, `GRANT ALL` in "
        "MySQL), or give another one.",
    ),
    (
        (14,),
        "{Where} cannot be opened: {said}. Check that its folder exists, and that you may write "
        "there.",
    ),
    (
        (26, 11),
        "{Where} is not a valid SQLite database: {said}. Give another file, or one that does "
        "not exist yet.",
    ),
    (
        (8, "25006", 1290, 1836),
        "{Where} cannot be written: {said}. Check that you may write to it (and, for SQLite, to "
        "its folder), or give another one.",
    ),
    (
        (13, "53100", 1021, 1114),
        f"{{Where}} cannot be written: {{said}}. Make room on its disk. {GOES_ON}",
    ),
)  # fmt: skip
# Temporary problems besides lost connections: SQLite busy; deadlocks; a server that starts, stops,
# or has no connection left.
_PASSING: Kinds = (
    5, 6, 1205, 1213, 1040, 1203, 2002, 2003, 2006, 2013, 1053, 1927, "40001", "40P01", "55P03",
    "08", "57P", "53300", "connection refused", "timeout", "timed out", "starting up",
    "shutting down", "too many clients", "connection slots", "no such file or directory",
    "connection failed", "server closed the connection", "the connection is closed",
    "lost synchronization", "network is unreachable", "no route to host", "connection reset",
)  # fmt: skip
_AWAY = (
    "{Where} cannot be reached: {said}. Check that it is running and that this machine may connect "
    f"to it. {GOES_ON}"
)
_UNKNOWN = f"{{Where}} cannot be used: {{said}}. {GOES_ON}"


def trouble_of(error: BaseException, address: Address) -> Trouble | None:
    """Interpret an error of a database; None for other errors.

    Args:
        error: The exception, possibly caused by another one.
        address: The database, which is named in the text.
    """
    seen = tuple(_chain(error))
    own = (SQLAlchemyError, StorageInternalError, *driver_errors(address))
    if not any(isinstance(one, own) for one in seen):
        return None
    where = f"the database {address.shown}"
    names = {"where": where, "Where": _up(where), "said": address.hide(_said(seen))}
    for kinds, text in _KNOWN:
        if any(_is(one, kinds) for one in seen):
            return Trouble(False, True, text.format(**names))
    lost = any(isinstance(one, DBAPIError) and one.connection_invalidated for one in seen)
    passing = lost or any(_is(one, _PASSING) for one in seen)
    return Trouble(passing, passing, (_AWAY if passing else _UNKNOWN).format(**names))


def driver_errors(address: Address) -> tuple[type[Exception], ...]:
    """Return the exceptions of the database's driver."""
    if address.kind == "postgresql":
        import psycopg

        return (psycopg.Error,)
    if address.kind == "mysql":
        import pymysql

        return (pymysql.err.Error,)
    return (sqlite3.Error,)


def _is(error: BaseException, kinds: Kinds) -> bool:
    number, state = _number(error), getattr(error, "sqlstate", None) or ""
    said = "" if number or state else str(error).lower()
    for kind in kinds:
        if isinstance(kind, int):
            found = kind == number
        elif re.fullmatch(r"[0-9A-Z]{2,5}", kind):
            found = state.startswith(kind)
        else:
            found = re.search(kind, said) is not None
        if found:
            return True
    return False


def _number(error: BaseException) -> int:
    """Return SQLite's result code, or MySQL's error number; 0 if there is none."""
    if type(error).__module__.startswith("pymysql") and error.args:
        return error.args[0] if isinstance(error.args[0], int) else 0
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _said(chain: tuple[BaseException, ...]) -> str:
    """Return the driver's message in one line."""
    wrapping = (SQLAlchemyError, StorageInternalError)
    own = next((one for one in chain if not isinstance(one, wrapping)), chain[0])
    text = own.args[1] if _number(own) and len(own.args) > 1 else str(own)
    return " ".join(str(text).split()).rstrip(".?")[:_LONGEST] or type(own).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return
        yield seen
        seen = getattr(seen, "orig", None) or seen.__cause__ or seen.__context__


def _up(text: str) -> str:
    return text[0].upper() + text[1:]
