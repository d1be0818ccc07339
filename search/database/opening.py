"""Open a database for a search, possibly empty, and possibly by many workers at the same time."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.lasting import PATIENCE, LastingStorage, Outage
from libmtl_recon_search.database.words import StorageError, trouble_of
from libmtl_recon_search.process import Interrupted
from libmtl_recon_search.trouble import first_line
from sqlalchemy import event

from libmtl_recon import ReconError

_UNREACHABLE = 5.0  # seconds for which a database may be unavailable when it is opened
# Seconds and attempts for creating tables while other workers create them; if all cores are busy,
# one attempt takes many seconds.
_CROWDED, _ATTEMPTS = 30.0, 8
_HELD = 60  # seconds for which another process may lock an SQLite file
_CONNECT = 10  # seconds within which a server must answer
_SILENT = 30  # seconds after which a silent server counts as gone


def open_storage(
    address: Address,
    say: Callable[[str], None] = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    patience: float = PATIENCE,
) -> LastingStorage:
    """Open a database, and create Optuna's tables if it has none.

    Args:
        address: The address of the database.
        say: A function that is called when the database is unavailable, from any thread.
        stopped: A function that returns whether to stop; called repeatedly during an outage.
        patience: Seconds for which the database may be unavailable later.

    Raises:
        StorageError: It cannot be reached, or does not permit the operations of a study.
        ReconError: Another version of Optuna created its tables.
        Interrupted: The search was asked to stop.
    """
    outage = Outage(address, say, stopped, patience)
    began, attempts = time.monotonic(), 0
    while True:
        attempts += 1
        try:
            if address.file is not None:
                _prepare(address)
            storage = LastingStorage(address, outage, _engine(address))
            break
        # Another worker that creates the same tables may cause any error.
        except Exception as error:  # noqa: BLE001
            _refuse(error, address, time.monotonic() - began, attempts)
        if stopped():
            raise Interrupted
        time.sleep(random.uniform(0.05, 0.5))
    if address.kind == "sqlite":
        _write_at_once(storage)
    else:
        _in_utc(storage)
    storage.survive_outages()
    return storage


def _refuse(error: Exception, address: Address, spent: float, attempts: int) -> None:
    """Raise an error that must not be retried."""
    crowded = spent <= _CROWDED or attempts < _ATTEMPTS
    if isinstance(error, RuntimeError) and "version" in str(error):
        raise ReconError(
            f"The tables in the database {address.shown} were created by another version of "
            f"Optuna: {address.hide(first_line(error))}. Install that version on this machine, "
            "update the tables with `optuna storage upgrade`, or give another database."
        ) from None
    trouble = trouble_of(error, address)
    if trouble is None:
        if not isinstance(error, AssertionError) or not crowded:
            raise StorageError(
                f"The database {address.shown} cannot be opened: {address.hide(first_line(error))}."
            ) from None
    elif trouble.passing:
        if spent > _UNREACHABLE and (address.file is None or spent > _CROWDED):
            raise StorageError(trouble.text) from None
    elif trouble.known or not crowded:
        raise StorageError(trouble.text) from None


def _engine(address: Address) -> dict[str, Any]:
    """Return the arguments of SQLAlchemy's engine."""
    connect: dict[str, Any] = {"timeout": _HELD}
    if address.kind == "postgresql":
        connect = {
            "connect_timeout": _CONNECT,
            # Without these, a network that drops all packets delays a query by a quarter of an
            # hour.
            "keepalives_idle": _SILENT,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 1000 * _SILENT,
        }
    if address.kind == "mysql":
        connect = {
            "connect_timeout": _CONNECT,
            "read_timeout": 2 * _SILENT,
            "write_timeout": 2 * _SILENT,
        }
    # As many connections as there are threads, of which most are idle.
    pool = {"pool_pre_ping": True, "max_overflow": -1}
    return {"connect_args": connect, **pool}


def _prepare(address: Address) -> None:
    """Check that a file is an SQLite database, and that readers do not block a writer."""
    with closing(sqlite3.connect(str(address.file), timeout=_HELD)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")


def _write_at_once(storage: LastingStorage) -> None:
    """Make each writing transaction lock SQLite's file from its start.

    A transaction that reads first and then writes would fail, or use outdated values, if another
    process had written in between. A transaction that only reads does not wait.
    """

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN" if storage.reads else "BEGIN IMMEDIATE")

    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # Python's module would begin transactions itself
        connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(storage.engine, "connect", connected)
    event.listen(storage.engine, "begin", begin)


def _in_utc(storage: LastingStorage) -> None:
    """Make all workers write heartbeats in UTC."""
    statement = "SET TIME ZONE 'UTC'"
    if storage.engine.name == "mysql":
        statement = "SET time_zone = '+00:00'"

    def connected(connection: Any, _: Any) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(statement)
        connection.commit()

    event.listen(storage.engine, "connect", connected)
