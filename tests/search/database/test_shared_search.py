"""Several workers make one search through a database alone: each run once, and exactly N plans."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from database_servers import MariaDB, Postgres
from database_workers import Crew
from fake_runs import LAYERS, TASKS, write_search
from libmtl_recon_search.database.address import Address
from optuna.trial import FrozenTrial, TrialState
from searching_workers import begun, search

SPACE = {
    "weighting": ["EW", "GradOPS"],
    "alpha": {"low": -3.0, "high": 2.0, "step": 0.001},
    "s": [-0.1],
    "k": {"low": 0, "high": LAYERS - 1},
}
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)


def trials_of(url: str, name: str) -> list[FrozenTrial]:
    storage = optuna.storages.RDBStorage(Address.parse(url).url)
    found = optuna.load_study(study_name=name, storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return found


def distinct(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that stand for plans of their own, and were trained."""
    return [t for t in trials if "same_as" not in t.user_attrs and t.state in ENDED]


def check(url: str, trials: int) -> None:
    """Exactly so many distinct plans were trained, and every key ended well, once."""
    own = trials_of(url, "study")
    assert not [t.number for t in own if t.state == TrialState.RUNNING]
    assert len(distinct(own)) == trials
    assert len({t.user_attrs["plan"] for t in distinct(own)}) == trials
    runs = [t for t in trials_of(url, "study/runs") if t.user_attrs["key"] != "header"]
    complete = Counter(t.user_attrs["key"] for t in runs if t.state == TrialState.COMPLETE)
    assert set(complete.values()) == {1}
    assert set(complete) == {t.user_attrs["key"] for t in runs}
    assert not [t.number for t in runs if t.state == TrialState.RUNNING]


def start(crew: Crew, url: str, file: Path, count: int, seconds: float, **more: Any) -> None:
    for place in range(count):
        out = file.parent / f"out{len(crew.processes)}"
        dies = more.get("dies", "") if place == 0 else ""
        crew.start(search, url, file, out, seconds, 0.25, more.get("grace", 3.0), dies)


@pytest.mark.parametrize("workers", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_workers_make_one_search(workers: int, url: str, crew: Crew, tmp_path: Path) -> None:
    trials = 12 if workers == 3 else 30
    file = write_search(tmp_path, space=SPACE, trials=trials, finalists={"count": 2, "seeds": [9]})
    start(crew, url, file, workers, 0.05)
    assert crew.join() == [0] * workers, crew.said()
    check(url, trials)
    keys = begun(tmp_path / "diary")
    assert {key: n for key, n in Counter(keys).items() if n > 1} == {}
    kinds = Counter(key.split("-")[0] for key in keys)
    # Each task alone with the seeds 0 and 9 (finalists), 1 and 2 (confirmation).
    assert (kinds["score"], kinds["single"]) == (1, 4 * len(TASKS))
    # All come to the same end, and each has the report.
    ends = [line for line in crew.said().splitlines() if line.startswith("best ")]
    assert len(ends) == workers
    assert len(set(ends)) == 1
    reports = [file.parent / f"out{n}" / "report.html" for n in range(workers)]
    assert all(report.stat().st_size > 1_000_000 for report in reports)


@pytest.mark.slow
def test_a_small_space_is_trained_whole(sqlite_url: str, crew: Crew, tmp_path: Path) -> None:
    space = {"weighting": ["EW"], "s": [-0.1], "k": {"low": 0, "high": 4}}
    file = write_search(tmp_path, space=space, trials=30)
    start(crew, sqlite_url, file, 3, 0.02)
    assert crew.join() == [0] * 3, crew.said()
    check(sqlite_url, 4)  # plain sharing is a baseline


@pytest.mark.parametrize(
    "dies",
    [
        "plan",
        pytest.param("before the first heartbeat", marks=pytest.mark.slow),
        pytest.param("single", marks=pytest.mark.slow),
        pytest.param("score", marks=pytest.mark.slow),
        pytest.param("before a trial is told", marks=pytest.mark.slow),
        pytest.param("finalists", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_killed_costs_only_the_run_that_it_was_at(
    dies: str, sqlite_url: str, crew: Crew, tmp_path: Path
) -> None:
    file = write_search(tmp_path, space=SPACE, trials=6, finalists={"count": 2, "seeds": [9]})
    start(crew, sqlite_url, file, 3, 0.05, dies=dies)
    codes = crew.join()
    assert codes in ([-9, 0, 0], [0, 0, 0]), crew.said()
    check(sqlite_url, 6)
    twice = {key: n for key, n in Counter(begun(tmp_path / "diary")).items() if n > 1}
    assert len(twice) <= 1
    assert all(n == 2 for n in twice.values())


def until_begun(folder: Path, plans: int) -> None:
    """Wait until some plans were begun."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        diary = folder / "diary"
        if diary.exists() and len([key for key in begun(diary) if "plan" in key]) > plans:
            return
        time.sleep(0.02)
    raise AssertionError("no worker came so far")


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_gives_back_its_run(
    sqlite_url: str, crew: Crew, tmp_path: Path
) -> None:
    file = write_search(tmp_path, space=SPACE, trials=8)
    start(crew, sqlite_url, file, 2, 0.3, grace=600.0)
    until_begun(tmp_path, 3)
    os.kill(crew.processes[0].pid, signal.SIGTERM)
    # With this grace nobody would take over a run that was not given back.
    codes = crew.join()
    assert codes[1] == 0, crew.said()
    assert codes[0] != 0
    assert "KeyboardInterrupt" in crew.said()
    check(sqlite_url, 8)


@pytest.mark.slow
def test_a_worker_that_sleeps_costs_only_the_run_that_it_was_at(
    sqlite_url: str, crew: Crew, tmp_path: Path
) -> None:
    file = write_search(tmp_path, space=SPACE, trials=8)
    start(crew, sqlite_url, file, 2, 0.3)
    until_begun(tmp_path, 3)
    os.kill(crew.processes[0].pid, signal.SIGSTOP)
    time.sleep(6.0)  # longer than the grace of 3 seconds
    os.kill(crew.processes[0].pid, signal.SIGCONT)
    assert crew.join() == [0, 0], crew.said()
    check(sqlite_url, 8)
    twice = {key: n for key, n in Counter(begun(tmp_path / "diary")).items() if n > 1}
    assert len(twice) <= 1
    assert all(n == 2 for n in twice.values())


@pytest.mark.slow
@pytest.mark.parametrize("away", [60.0])
def test_a_search_outlives_its_database(
    away: float, postgres: Postgres, postgres_url: str, crew: Crew, tmp_path: Path
) -> None:
    file = write_search(tmp_path, space=SPACE, trials=8)
    for place in range(2):
        crew.start(search, postgres_url, file, tmp_path / f"out{place}", 1.0, 15.0, 120.0)
    until_begun(tmp_path, 3)
    postgres.stop()
    time.sleep(away)
    postgres.start()
    assert crew.join(400.0) == [0, 0], crew.said()
    check(postgres_url, 8)
    assert {key: n for key, n in Counter(begun(tmp_path / "diary")).items() if n > 1} == {}


@pytest.mark.slow
def test_workers_make_one_search_in_mariadb(mariadb: MariaDB, crew: Crew, tmp_path: Path) -> None:
    url = mariadb.new_database()
    file = write_search(tmp_path, space=SPACE, trials=8)
    start(crew, url, file, 3, 0.05)
    assert crew.join() == [0, 0, 0], crew.said()
    check(url, 8)


@pytest.mark.slow
def test_a_late_worker_takes_what_is_there(sqlite_url: str, crew: Crew, tmp_path: Path) -> None:
    file = write_search(tmp_path, space=SPACE, trials=4)
    start(crew, sqlite_url, file, 1, 0.01)
    assert crew.join() == [0], crew.said()
    before = begun(tmp_path / "diary")
    start(crew, sqlite_url, file, 1, 0.01)
    assert crew.join() == [0, 0], crew.said()
    assert begun(tmp_path / "diary") == before
    check(sqlite_url, 4)


@pytest.mark.slow
def test_a_worker_with_another_script_is_refused(
    sqlite_url: str, crew: Crew, tmp_path: Path
) -> None:
    file = write_search(tmp_path, space=SPACE, trials=4)
    start(crew, sqlite_url, file, 1, 0.01)
    assert crew.join() == [0], crew.said()
    before = [(t.number, t.state, t.user_attrs) for t in trials_of(sqlite_url, "study")]
    other = tmp_path / "other"
    other.mkdir()
    write_search(other, space=SPACE, trials=4)
    (other / "main.py").write_text("never Run", encoding="utf-8")
    start(crew, sqlite_url, other / "study.yaml", 1, 0.01)
    assert crew.join() == [0, 1]
    assert "the script's text changed since then" in crew.said()
    assert [(t.number, t.state, t.user_attrs) for t in trials_of(sqlite_url, "study")] == before
