"""Databases for the tests: SQLite, and servers that are started once and have one for each test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))

from database_servers import MariaDB, Postgres, Server
from database_workers import Crew
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.beats import Beats
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.lasting import LastingStorage
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.quiet import optuna_quiet

Open = Callable[..., LastingStorage]


@pytest.fixture(autouse=True)
def quiet_optuna() -> Iterator[None]:
    """Optuna says nothing of its own, as in a search."""
    with optuna_quiet():
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    with MariaDB(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """An empty database in PostgreSQL."""
    return postgres.new_database()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """An empty database, of each kind that a search is made for."""
    if request.param == "sqlite":
        return sqlite_url
    server: Server = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def any_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """An empty database, of each kind that there is."""
    if request.param == "sqlite":
        return sqlite_url
    server: Server = request.getfixturevalue(request.param)
    return server.new_database()


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens databases, which are closed in the end."""
    storages: list[LastingStorage] = []

    def open_(url: str, **kwargs: Any) -> LastingStorage:
        storages.append(open_storage(Address.parse(url), **kwargs))
        return storages[-1]

    yield open_
    for storage in storages:
        storage.close()


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    """Workers in processes."""
    crew = Crew(tmp_path)
    yield crew
    crew.end()


@pytest.fixture
def worker(opened: Open) -> Iterator[Callable[..., Claims]]:
    """Makes workers' claims in a database, each with connections and heartbeats of its own."""
    beating: list[Beats] = []

    def make(
        url: str, every: float = 0.2, grace: float = 60.0, say: Any = None, **kwargs: Any
    ) -> Claims:
        say = say or (lambda _: None)
        storage = opened(url, say=say, **kwargs)
        beating.append(Beats(storage, say, every, grace))
        return Claims(storage, "digits/runs", beating[-1])

    yield make
    for beats in beating:
        beats.close()
