"""What a user may give as a database, by whom it is opened at once, and what it says."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from database_servers import MariaDB, Postgres
from database_workers import NAME, Crew, open_at_once
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.lasting import LastingStorage
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.database.words import StorageError
from libmtl_recon_search.trouble import MachineError

from libmtl_recon import ReconError, UsageError
from libmtl_recon.errors import MissingPackageError

Open = Callable[..., LastingStorage]
SECRET = "hunter2-sEcReT"
GUARDED = f"guarded:{SECRET}"


@pytest.fixture(autouse=True)
def _nothing_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Check that nothing is printed and that no log record contains the password."""
    caplog.set_level(logging.DEBUG)
    yield
    streams = capfd.readouterr()
    assert streams.out + streams.err == ""
    assert SECRET not in caplog.text


@pytest.fixture(scope="module")
def guarded(postgres: Postgres) -> Postgres:
    """A server with a user that has a password and no rights."""
    postgres.asks_for_password("guarded")
    postgres.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{SECRET}'")
    return postgres


def refusal(url: str) -> str:
    """Return the error for a URL; check that it and its traceback do not have the password."""
    with pytest.raises(ReconError) as raised:
        open_storage(Address.parse(url)).close()
    printed = "".join(traceback.format_exception(raised.value))
    assert SECRET not in printed + repr(raised.value)
    assert "\n" not in str(raised.value)
    assert not raised.value.__cause__ or isinstance(raised.value.__cause__, ImportError)
    return str(raised.value)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql+psycopg://u:p@h:5/d", "postgresql+psycopg://u:p@h:5/d"),
        ("PostgreSQL://h/d", "postgresql+psycopg://h/d"),
        ("mysql://u:p@h/d", "mysql+pymysql://u:p@h/d"),
        ("mysql+pymysql://u:p@h/d", "mysql+pymysql://u:p@h/d"),
        ("mariadb://u:p@h/d", "mysql+pymysql://u:p@h/d"),
        ("mariadb+pymysql://u:p@h/d", "mysql+pymysql://u:p@h/d"),
        (" postgresql://u:a%40b@h/d\n", "postgresql+psycopg://u:a%40b@h/d"),
    ],
)
def test_driver_need_not_be_named(url: str, whole: str) -> None:
    assert Address.parse(url).url == whole


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5/d", "postgresql+psycopg://u:***@h:5/d"),
        (f"postgresql://u@h/d?password={SECRET}", "postgresql+psycopg://u@h/d?password=***"),
        (f"mysql://u:x@h/d?ssl_key_password={SECRET}", "mysql+pymysql://u:***@h/d?ssl_key_passw"),
    ],
)
def test_address_shows_no_secret(url: str, shown: str) -> None:
    address = Address.parse(url)
    assert address.shown.startswith(shown)
    for text in (address.shown, str(address), repr(address), f"{address}"):
        assert SECRET not in text
    assert SECRET not in address.hide(f"{address.url}: no {SECRET}!")


def test_escaped_secrets_are_hidden_in_each_spelling() -> None:
    address = Address.parse("postgresql://u:a%2Fb%20long+one@h/d")
    for spelled in ("a/b long+one", "a%2Fb%20long%2Bone", "a%2Fb%20long+one", "a%2Fb+long%2Bone"):
        assert address.hide(f"<{spelled}>") == "<***>"
    short = Address.parse("postgresql://u:do@h/d")
    assert short.hide("do not: do-nut donut u:do@h") == "*** not: ***-nut donut u:***@h"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "must be the URL of a database"),
        (f"u:{SECRET}@h/d", "must be the URL of a database"),
        (f"oracle://u:{SECRET}@h/d", "must begin with one of postgresql+psycopg, mysql+pymysql"),
        (f"postgresql+asyncpg://u:{SECRET}@h/d", "must begin with one of"),
        (f"redis://:{SECRET}@h", "must begin with one of"),
        (f"postgresql://u:p@{SECRET}@h/d", "write `@` as %40"),
        (f"postgresql://u:p@h:{SECRET}/d", "the port is a number"),
        (f"postgresql://u:{SECRET}@h", "must contain the name of a database"),
        ("sqlite://", "must contain a file name"),
        ("sqlite:///:memory:", "must contain a file name"),
        ("sqlite:///file:x?mode=memory&uri=true", "must contain a file name"),
        ("sqlite://host/study.db", "must be sqlite:///FILE"),
        ("sqlite:///study.db?timeout=1", "must be sqlite:///FILE"),
    ],
)
def test_what_is_no_database_is_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        Address.parse(url)
    assert says in str(raised.value)
    assert "sqlite:///" in str(raised.value)  # a way out
    assert SECRET not in "".join(traceback.format_exception(raised.value)) + repr(raised.value)


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("postgresql", "psycopg", "postgres"), ("mysql", "pymysql", "mysql")],
)
def test_driver_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError) as raised:
        Address.parse(f"{scheme}://u:{SECRET}@h/d")
    assert f"`pip install 'libmtl-recon[{extra}]'`" in str(raised.value)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


class TestSQLite:
    """A file."""

    def test_path_is_that_of_the_folder_in_which_it_was_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: Open
    ) -> None:
        monkeypatch.chdir(tmp_path)
        address = Address.parse("sqlite:///study.db")
        monkeypatch.chdir("/")
        assert address.file == tmp_path / "study.db"
        opened(f"sqlite:///{address.file}")
        assert address.file.exists()

    def test_braces_are_no_placeholders(self, tmp_path: Path, opened: Open) -> None:
        opened(f"sqlite:///{tmp_path}/a{{b}}.db")
        assert (tmp_path / "a{b}.db").exists()

    def test_transactions_do_not_overlap(self, opened: Open, sqlite_url: str) -> None:
        """Of two that read first and then write, the second waits in its first statement."""
        storage = opened(sqlite_url)
        with storage.engine.begin() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM trials")
            file = str(storage.address.file)
            with closing(sqlite3.connect(file, timeout=0.05, isolation_level=None)) as other:
                assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
                other.execute("SELECT count(*) FROM trials")  # reading is never in the way
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    other.execute("BEGIN IMMEDIATE")
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000

    def test_file_that_is_no_database(self, tmp_path: Path) -> None:
        file = tmp_path / "notes.txt"
        file.write_text("Buy milk. " * 200)
        said = refusal(f"sqlite:///{file}")
        assert f"The database sqlite:///{file} is not a valid SQLite database: file is not" in said
        assert file.read_text() == "Buy milk. " * 200

    @pytest.mark.parametrize("name", ["none/study.db", "."])
    def test_file_that_cannot_be(self, tmp_path: Path, name: str) -> None:
        said = refusal(f"sqlite:///{tmp_path}/{name}")
        assert "cannot be opened: unable to open database file. Check that its folder" in said

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_file_that_may_not_be_written(self, tmp_path: Path, sqlite_url: str) -> None:
        open_storage(Address.parse(sqlite_url)).close()
        (tmp_path / "shared.db").chmod(0o400)
        assert "cannot be written: attempt to write a readonly" in refusal(sqlite_url)

    def test_tables_of_another_version(self, sqlite_url: str, opened: Open) -> None:
        file = str(opened(sqlite_url).address.file)
        for version, way_out in (("v3.0.0.d", "optuna storage upgrade"), ("v9", "pip install -U")):
            with closing(sqlite3.connect(file)) as connection, connection:
                connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
            said = refusal(sqlite_url)
            assert (
                f"The tables in the database {sqlite_url} were created by another version of Optuna"
            ) in said
            assert way_out in said


class TestPostgreSQL:
    """A server."""

    def test_user_without_rights(self, guarded: Postgres, postgres_url: str) -> None:
        name = postgres_url.partition("/study_")[2].partition("?")[0]
        said = refusal(guarded.url(f"study_{name}", GUARDED))
        assert "lacks permissions that a study needs: permission denied for schema public" in said
        assert "guarded:***@" in said

    def test_user_with_rights(self, guarded: Postgres, opened: Open) -> None:
        guarded.execute("CREATE DATABASE theirs OWNER guarded")
        storage = opened(guarded.url("theirs", GUARDED))
        study = optuna.create_study(storage=storage, study_name="s")
        study.add_trial(optuna.trial.create_trial(value=1.0))
        for text in (repr(storage), repr(storage.engine), repr(study)):
            assert SECRET not in text

    def test_wrong_password(self, guarded: Postgres) -> None:
        said = refusal(guarded.url("postgres", f"guarded:{SECRET}x"))
        assert "does not accept this user: connection failed: connection to server on" in said
        assert 'password authentication failed for user "guarded"' in said
        assert "does not accept this user" in refusal(guarded.url("postgres", "guarded:"))

    def test_unknown_user_and_database(self, guarded: Postgres) -> None:
        said = refusal(guarded.url("postgres", f"nobody:{SECRET}"))
        assert "does not accept this user" in said
        assert 'role "nobody" does not exist' in said
        assert "does not exist: connection failed" in refusal(guarded.url("none"))

    def test_unknown_host(self) -> None:
        said = refusal(f"postgresql://u:{SECRET}@no-such-host.invalid/d")
        assert said.startswith("The host of the database postgresql+psycopg://u:***@no-such-host")

    def test_nobody_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("libmtl_recon_search.database.opening._UNREACHABLE", 0.3)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            said = refusal(f"postgresql://u:{SECRET}@127.0.0.1:{port}/d")
            assert "cannot be reached: connection failed" in said
            assert "Check that it is running" in said
            said = refusal(f"mysql://u:{SECRET}@127.0.0.1:{port}/d")
            assert "cannot be reached: Can't connect to MySQL server" in said

    def test_clocks_have_no_summer_time(self, postgres_url: str, opened: Open) -> None:
        with opened(postgres_url).engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW timezone").scalar() == "UTC"


class TestMariaDB:
    """Another server."""

    def test_refusals(self, mariadb: MariaDB, opened: Open) -> None:
        mariadb.execute(
            f"CREATE USER guarded@localhost IDENTIFIED BY '{SECRET}'",
            "CREATE DATABASE closed",
            "CREATE DATABASE reading",
            "GRANT SELECT ON reading.* TO guarded@localhost",
            "CREATE DATABASE theirs",
            "GRANT ALL ON theirs.* TO guarded@localhost",
        )
        said = refusal(mariadb.url("reading", GUARDED))
        assert "lacks permissions that a study needs: CREATE command denied" in said
        said = refusal(mariadb.url("closed", GUARDED))
        assert "lacks permissions that a study needs: Access denied" in said
        said = refusal(mariadb.url("theirs", f"guarded:{SECRET}x"))
        assert "does not accept this user: Access denied for user 'guarded'@'localhost'" in said
        assert "does not exist: Unknown database 'none'" in refusal(mariadb.url("none"))
        with opened(mariadb.url("theirs", GUARDED)).engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT @@time_zone").scalar() == "+00:00"


def _opened_at_once(url: str, crew: Crew, processes: int) -> None:
    together = crew.barrier(processes)
    for _ in range(processes):
        crew.start(open_at_once, url, together)
    assert crew.join() == [0] * processes, crew.said()
    assert crew.said() == ""
    storage = open_storage(Address.parse(url))
    trials = optuna.load_study(study_name=NAME, storage=storage).get_trials()
    storage.close()
    assert len(trials) == processes
    assert sum(trial.state.name == "RUNNING" for trial in trials) == 1


def test_several_open_an_empty_database_at_once(any_url: str, crew: Crew) -> None:
    _opened_at_once(any_url, crew, 3)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_eight_open_an_empty_database_at_once(any_url: str, crew: Crew, attempt: int) -> None:
    _opened_at_once(any_url, crew, 8)


def test_unreachable_database_is_no_fault_of_a_run() -> None:
    assert issubclass(StorageError, MachineError)


def test_reading_does_not_wait_for_another_worker_that_writes(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libmtl_recon_search.database.opening._HELD", 0.1)
    file = tmp_path / "study.db"
    storage = opened(f"sqlite:///{file}", patience=0.0)
    study = optuna.create_study(storage=storage)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert [trial.value for trial in study.get_trials()] == [1.0]
        with pytest.raises(StorageError):
            study.add_trial(optuna.trial.create_trial(value=2.0))
    assert not storage.reads
