"""Workers that are killed, or sleep: what they were at is made once more, by one other."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from database_workers import NAME, Crew, begun, work
from libmtl_recon_search.database.claims import Claims
from optuna.trial import TrialState, create_trial

Worker = Callable[..., Claims]
KEYS = ("score", "plan-1", "plan-2")


def all_finished(claims: Claims) -> None:
    """Each key has one finished run, and nothing runs any more."""
    study = optuna.load_study(study_name=NAME, storage=claims.storage)
    trials = study.get_trials(deepcopy=False)
    finished = Counter(t.user_attrs["key"] for t in trials if t.state == TrialState.COMPLETE)
    assert finished == dict.fromkeys(KEYS, 1)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}


PHASES = {
    "before the first heartbeat": 0,
    "in the work": 1,
    "before publishing": 1,
    "before it is told": 1,
}
QUICK = {("sqlite", "before publishing")}
KILLS = [
    pytest.param(kind, phase, marks=[] if (kind, phase) in QUICK else [pytest.mark.slow])
    for kind in ("sqlite", "postgres")
    for phase in PHASES
]


@pytest.mark.parametrize(("url", "dies"), KILLS, indirect=["url"])
def test_killed_workers_run_is_made_by_another(
    url: str, tmp_path: Path, crew: Crew, worker: Worker, dies: str
) -> None:
    again = PHASES[dies]
    crew.start(work, url, tmp_path / "out-0", KEYS, 0.0, dies)
    assert crew.join() == [-signal.SIGKILL]
    assert begun(tmp_path / "diary") == ["score"] * again
    crew.start(work, url, tmp_path / "out-1", KEYS, 0.0)
    crew.start(work, url, tmp_path / "out-2", KEYS, 0.0)
    assert crew.join() == [-signal.SIGKILL, 0, 0], crew.said()
    assert Counter(begun(tmp_path / "diary")) == {**dict.fromkeys(KEYS, 1), "score": 1 + again}
    all_finished(worker(url))
    for key in KEYS:
        first, second = (tmp_path / f"out-{n}" / "runs" / f"{key}.jsonl" for n in (1, 2))
        assert first.read_bytes() == second.read_bytes()
    assert "Traceback" not in crew.said()


def asleep_in_first_run(url: str, folder: Path, crew: Crew) -> Any:
    """A worker that was stopped in its first run; it writes no heartbeats but the first.

    So it is stopped in no transaction, in which it would keep others from SQLite's file.
    """
    process = crew.start(work, url, folder / "out-0", KEYS, 0.3, "", 30.0)
    until = time.monotonic() + 60
    while not begun(folder / "diary") and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGSTOP)
    return process


@pytest.mark.slow
def test_worker_that_slept_drops_its_result(
    url: str, tmp_path: Path, crew: Crew, worker: Worker
) -> None:
    watching = worker(url)
    sleeper = asleep_in_first_run(url, tmp_path, crew)
    found = watching.find("score")
    crew.start(work, url, tmp_path / "out-1", KEYS, 0.0)
    crew.processes[1].join(60)
    os.kill(sleeper.pid, signal.SIGCONT)
    assert crew.join() == [0, 0], crew.said()
    assert found is not None
    failed = watching.storage.get_trial(found.trial_id)
    assert failed.state == TrialState.FAIL
    assert "outcome" not in failed.user_attrs
    all_finished(watching)
    log = (tmp_path / "worker-0.log").read_text()
    assert "The run score was taken over by another worker" in log
    assert "Traceback" not in crew.said()
    assert (tmp_path / "out-0" / "profile.json").read_text() == "profile of score"


@pytest.mark.slow
def test_worker_that_slept_unnoticed_goes_on(
    sqlite_url: str, tmp_path: Path, crew: Crew, worker: Worker
) -> None:
    watching = worker(sqlite_url)
    sleeper = asleep_in_first_run(sqlite_url, tmp_path, crew)
    time.sleep(3.0)  # past the grace
    os.kill(sleeper.pid, signal.SIGCONT)
    assert crew.join() == [0], crew.said()
    assert begun(tmp_path / "diary") == list(KEYS)
    all_finished(watching)


class TestSweep:
    """What is failed, and when."""

    EVERY, GRACE = 0.2, 1.2

    def claims(self, worker: Worker, url: str) -> Claims:
        return worker(url, every=self.EVERY, grace=self.GRACE)

    def sweep_for(self, claims: Claims, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            claims.beats.sweep(claims.study)
            time.sleep(0.05)

    @pytest.mark.slow
    def test_held_trial_stays(self, postgres_url: str, worker: Worker) -> None:
        one, other = self.claims(worker, postgres_url), self.claims(worker, postgres_url)
        claim = one.claim("k")
        assert claim is not None
        self.sweep_for(other, 3 * self.GRACE)
        assert one.publish(claim, b"done")
        assert not one.beats.lost(claim.trial_id)

    @pytest.mark.parametrize("started", [False, True])
    def test_trial_of_a_dead_worker_fails_after_the_grace_only(
        self, url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch, started: bool
    ) -> None:
        one, other = self.claims(worker, url), self.claims(worker, url)
        if not started:
            monkeypatch.setattr(one.beats, "hold", lambda _: None)
        claim = one.claim("k")
        assert claim is not None
        one.beats.close()
        self.sweep_for(other, self.GRACE / 2)
        assert other.find("k") is not None
        # SQLite's clock counts whole seconds.
        self.sweep_for(other, self.GRACE + 2.0)
        assert other.find("k") is None

    def test_trial_of_another_program_is_left_alone(self, sqlite_url: str, worker: Worker) -> None:
        other = self.claims(worker, sqlite_url)
        other.study.add_trial(create_trial(state=TrialState.RUNNING))
        self.sweep_for(other, 2.5 * self.GRACE)
        assert [t.state for t in other.study.get_trials()] == [TrialState.RUNNING]

    @pytest.mark.parametrize("why", ["just begun", "slept", "no database"])
    @pytest.mark.slow
    def test_worker_that_cannot_know_fails_nothing(
        self, sqlite_url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch, why: str
    ) -> None:
        one = self.claims(worker, sqlite_url)
        one.beats.hold = lambda _: None  # type: ignore[method-assign]
        claim = one.claim("k")
        assert claim is not None
        one.storage.record_heartbeat(claim.trial_id)
        one.storage.set_trial_user_attr(claim.trial_id, "started", True)
        other = worker(sqlite_url, every=1.0, grace=self.GRACE)
        if why != "just begun":
            time.sleep(2.5)
        if why == "slept":
            other.beats._round._of_day -= 3600.0  # as where the lid of a laptop was closed
        elif why == "no database":
            other.storage.outage.last = time.monotonic()
        else:
            time.sleep(self.GRACE)
        other.beats.sweep(other.study)
        found = other.find("k")
        assert found is not None
        assert found.state == "running"
        # Two heartbeats later it may.
        self.sweep_for(other, 5.0)
        assert other.find("k") is None
