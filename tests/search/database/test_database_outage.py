"""A database that is away for a while: nobody fails, and nothing is made twice."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from database_servers import MariaDB, Postgres, Server
from database_workers import Crew, PretendedRunner, begun, job, work
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.lasting import Outage
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.database.shared_runner import SharedRunner
from libmtl_recon_search.database.words import StorageError
from libmtl_recon_search.process import Interrupted
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

Worker = Callable[..., Claims]
KEYS = ("score", "plan-1", "plan-2")


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that may be stopped."""
    with Postgres() as server:
        yield server


def _away(server: Server, seconds: float) -> None:
    server.stop()
    time.sleep(seconds)
    server.start()


def _survived(
    server: Postgres, folder: Path, crew: Crew, away: float, every: float, grace: float
) -> None:
    """One worker trains while the database is away, the other waits for it."""
    url = server.new_database()
    crew.start(work, url, folder / "out-0", KEYS, away / 2, "", every, grace)
    until = time.monotonic() + 60
    while not begun(folder / "diary") and time.monotonic() < until:
        time.sleep(0.05)
    crew.start(work, url, folder / "out-1", KEYS, away / 2, "", every, grace)
    (folder / "worker-1.log").touch()
    while "is there" not in (folder / "worker-1.log").read_text() and time.monotonic() < until:
        time.sleep(0.05)
    _away(server, away)
    assert crew.join(10 * away + 60) == [0, 0], crew.said()
    assert sorted(begun(folder / "diary")) == sorted(KEYS)
    for key in KEYS:
        first, second = (folder / f"out-{n}" / "runs" / f"{key}.jsonl" for n in (0, 1))
        assert first.read_bytes() == second.read_bytes()
    said = crew.said()
    assert "Traceback" not in said
    assert said.count("cannot be reached") == said.count("is available again") == 2
    storage = open_storage(Address.parse(url))
    study = optuna.load_study(study_name="digits/runs", storage=storage)
    counted = [t.state for t in study.get_trials() if "outcome" in t.user_attrs]
    assert counted == [TrialState.COMPLETE] * 3
    storage.close()


@pytest.mark.slow
def test_workers_wait_for_postgresql(own_postgres: Postgres, tmp_path: Path, crew: Crew) -> None:
    _survived(own_postgres, tmp_path, crew, 3.0, 0.5, 20.0)


@pytest.mark.slow
def test_workers_wait_a_minute_for_postgresql(
    own_postgres: Postgres, tmp_path: Path, crew: Crew
) -> None:
    _survived(own_postgres, tmp_path, crew, 60.0, 15.0, 120.0)


@pytest.mark.slow
def test_outage_longer_than_the_grace_costs_no_run(
    own_postgres: Postgres, tmp_path: Path, crew: Crew
) -> None:
    """Whoever comes back first does not take the others for gone."""
    _survived(own_postgres, tmp_path, crew, 4.0, 0.5, 2.0)


@pytest.mark.slow
def test_claims_wait_for_mariadb(tmp_path: Path, worker: Worker) -> None:
    with MariaDB(tmp_path / "mariadb") as server:
        said: list[str] = []
        claims = worker(server.new_database(), say=said.append)
        claim = claims.claim("k")
        assert claim is not None
        back = threading.Thread(target=_away, args=(server, 1.0))
        back.start()
        time.sleep(0.7)
        assert claims.publish(claim, b"done")
        back.join()
        found = claims.find("k")
        assert found is not None
        assert claims.content(found) == b"done"
        heard = list(said)  # before the server ends, of which heartbeats may hear
    assert [text.split(":")[0][:13] for text in heard] == ["The database ", "The database "]


def test_database_that_stays_away_is_given_up(own_postgres: Postgres, worker: Worker) -> None:
    said: list[str] = []
    claims = worker(own_postgres.new_database(), say=said.append, patience=0.5)
    own_postgres.stop()
    with pytest.raises(StorageError) as raised:
        claims.find("k")
    assert "cannot be reached: connection" in str(raised.value)
    assert "the same command then resumes" in str(raised.value)
    assert "psycopg" not in "".join(traceback.format_exception(raised.value)).split("Error: ")[0]
    assert len(said) == 1
    assert said[0].endswith("Waiting for it, for up to 0.00833333 minutes.")


def test_worker_stops_though_the_database_is_away(
    own_postgres: Postgres, tmp_path: Path, worker: Worker
) -> None:
    asked = threading.Event()
    claims = worker(own_postgres.new_database(), stopped=asked.is_set)
    runner = SharedRunner(PretendedRunner(tmp_path / "diary"), claims, asked_to_stop=asked.is_set)
    own_postgres.stop()
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(runner.run, job(tmp_path, f"plan-{n}")) for n in range(2)]
        time.sleep(0.5)
        began = time.monotonic()
        asked.set()
        for future in futures:
            with pytest.raises(Interrupted):
                future.result(5)
        assert time.monotonic() - began < 1.0


class TestLostAnswers:
    """A connection may be lost after the database has done what it was asked for."""

    @pytest.fixture
    def claims(self, sqlite_url: str, worker: Worker) -> Claims:
        return worker(sqlite_url)

    @pytest.fixture
    def lose(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        def lose(name: str) -> None:
            whole, lost = getattr(optuna.storages.RDBStorage, name), []

            def losing(*args: Any, **kwargs: Any) -> Any:
                found = whole(*args, **kwargs)
                if not lost:
                    lost.append(name)
                    gone = ConnectionError("server closed the connection")
                    raise OperationalError("COMMIT", {}, gone)
                return found

            monkeypatch.setattr(optuna.storages.RDBStorage, name, losing)

        return lose

    def test_claim_is_not_made_twice(self, claims: Claims, lose: Callable[[str], None]) -> None:
        lose("_create_new_trial")
        claim = claims.claim("k")
        assert claim is not None
        assert claim.number == 0
        states = [trial.state for trial in claims.study.get_trials()]
        assert states == [TrialState.RUNNING, TrialState.FAIL]

    def test_end_is_not_taken_for_another_workers(
        self, claims: Claims, lose: Callable[[str], None]
    ) -> None:
        claim = claims.claim("k")
        assert claim is not None
        lose("set_trial_state_values")
        assert claims.publish(claim, b"done")
        again = claims.claim("l")
        assert again is not None
        claims.withdraw(again)
        assert not claims.publish(again, b"late")


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        ("terminating connection due to administrator command: server closed the connection", True),
        ("FATAL: the database system is starting up", True),
        ("FATAL: sorry, too many clients already", True),
        ("value too long for type character varying(512)", False),
    ],
)
def test_only_what_passes_is_tried_again(sqlite_url: str, words: str, passes: bool) -> None:
    tried: list[float] = []

    def fail() -> None:
        tried.append(time.monotonic())
        raise OperationalError("SELECT", {}, ConnectionError(words))

    outage = Outage(Address.parse(sqlite_url), lambda _: None, lambda: False, patience=0.2)
    with pytest.raises(StorageError, match=words.split(":")[-1].strip()[:20]):
        outage.survive(fail)
    assert (len(tried) > 1) == passes
