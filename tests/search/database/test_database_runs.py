"""Each run is made by one worker; the others take what it has published."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from database_workers import PretendedRunner, begun, job
from libmtl_recon_search.child import Job
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.shared_runner import SharedRunner
from libmtl_recon_search.process import Interrupted, RunError
from libmtl_recon_search.result import Result
from libmtl_recon_search.trouble import MachineError

from libmtl_recon import ReconError

Hire = Callable[..., "Colleague"]


class Colleague:
    """A worker with a folder, a connection and heartbeats of its own."""

    def __init__(self, claims: Claims, folder: Path, seconds: float, said: list[str]) -> None:
        self.claims, self.folder, self.said = claims, folder, said
        self.asked = threading.Event()
        self.made = PretendedRunner(folder.parent / "diary", seconds)
        self.runner = SharedRunner(self.made, claims, said.append, self.asked.is_set)

    def run(self, key: str, follow: Any = lambda _: True, **more: Any) -> Result:
        return self.runner.run(job(self.folder, key, **more), follow)

    def record(self, key: str) -> bytes:
        return (self.folder / "runs" / f"{key}.jsonl").read_bytes()


@pytest.fixture
def hire(sqlite_url: str, worker: Callable[..., Claims], tmp_path: Path) -> Hire:
    def hire(seconds: float = 0.0, url: str = sqlite_url, **kwargs: Any) -> Colleague:
        said: list[str] = []
        folder = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        folder.mkdir()
        return Colleague(worker(url, say=said.append, **kwargs), folder, seconds, said)

    return hire


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    return tmp_path / "diary"


def test_each_run_is_made_once_and_read_by_all(any_url: str, hire: Hire, diary: Path) -> None:
    team = [hire(0.05, any_url) for _ in range(3)]
    keys = [f"plan-{place}" for place in range(4)]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda who: [who.run(key) for key in keys], team))
    assert sorted(begun(diary)) == keys
    for key in keys:
        assert len({who.record(key) for who in team}) == 1
    assert results[0] == results[1] == results[2]
    assert results[0][0].epochs["val"] == [{"a": {"Acc": value}} for value in (0.5, 0.6, 0.7)]
    assert [who.said for who in team] == [[], [], []]


def test_profile_comes_with_a_scoring_run(hire: Hire, diary: Path) -> None:
    one, other = hire(), hire()
    for who in (one, other):
        assert who.run("score-1", profile=who.folder / "profile.json").finished
        assert (who.folder / "profile.json").read_text() == "profile of score-1"
    assert begun(diary) == ["score-1"]


def test_what_was_taken_is_not_asked_for_again(
    hire: Hire, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = hire(), hire()
    first = one.run("plan-1")
    assert other.run("plan-1") == first
    with monkeypatch.context() as patch:
        patch.setattr(other.claims, "find", lambda _: pytest.fail("asked"))
        assert other.run("plan-1") == first
    record = other.folder / "runs" / "plan-1.jsonl"
    record.write_bytes(record.read_bytes()[:-20])  # cut off, as by a full disk
    assert other.run("plan-1") == first
    record.unlink()
    assert other.run("plan-1") == first
    assert begun(diary) == ["plan-1"]


def test_starts_are_no_business_of_others(hire: Hire, diary: Path) -> None:
    one, other = hire(), hire()
    one.run("start-1", start=True)
    other.run("start-1", start=True)
    assert begun(diary) == ["start-1", "start-1"]
    assert one.claims.keys() == {}


def test_run_that_was_made_before_and_not_published_is(hire: Hire, diary: Path) -> None:
    one, other = hire(), hire()
    one.made.run(job(one.folder, "plan-1"))  # as before a worker was killed
    one.run("plan-1")
    assert other.run("plan-1").finished
    assert begun(diary) == ["plan-1"]


def test_failed_run_fails_for_all_that_were_there(hire: Hire, diary: Path) -> None:
    one, waiting, asking = hire(0.0), hire(0.0), hire(0.0)
    text = "The run `main.py` failed with exit status 3. Its error: no data."
    begins = threading.Event()

    def fails(_: Job) -> Exception:
        begins.set()
        time.sleep(0.3)
        return RunError(text, "failed with exit status 3. Its error: no data.")

    one.made.fails = fails
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(one.run, "single-1")
        begins.wait(10)
        other = pool.submit(waiting.run, "single-1")
        for future in (failing, other):
            with pytest.raises(RunError, match="no data") as raised:
                future.result(20)
            assert raised.value.reason == "failed with exit status 3. Its error: no data."
    # This one was there when it failed, though it was at something else.
    with pytest.raises(RunError, match="exit status 3") as raised:
        asking.run("single-1")
    assert str(raised.value).startswith(text)
    assert begun(diary) == ["single-1"]
    # The reason may be gone for one that begins later, and then for those that have been there.
    assert hire().run("single-1").finished
    assert asking.run("single-1").finished
    assert begun(diary) == ["single-1"] * 2


def test_run_that_was_ended_early_is_not_made_again(hire: Hire, diary: Path) -> None:
    one, other = hire(), hire()
    ends = one.run("plan-1", lambda result: len(result.epochs["val"]) < 2)
    assert ends.notes["ended early"]
    seen: list[int] = []
    there = other.run("plan-1", lambda result: seen.append(len(result.epochs["val"])) or True)
    assert there.notes["ended early"]
    assert there.epochs == ends.epochs
    assert seen == [0, 0, 1, 2]  # as if it were made here, event by event
    assert other.record("plan-1") == one.record("plan-1")
    assert begun(diary) == ["plan-1"]


def test_what_is_no_fault_of_the_run_leaves_it_to_others(hire: Hire, diary: Path) -> None:
    one, other = hire(), hire()
    for error in (MachineError("The disk is full."), ReconError("K leaves no layer."), OSError(5)):
        one.made.fails = lambda _, error=error: error  # type: ignore[misc]
        with pytest.raises(type(error)):
            one.run("plan-1")
        assert other.claims.find("plan-1") is None
    assert other.run("plan-1").finished
    assert begun(diary) == ["plan-1"] * 4


@pytest.mark.parametrize("how", ["asked", "stop"])
def test_waiting_worker_stops_at_once(hire: Hire, how: str) -> None:
    one, other = hire(), hire()
    assert one.claims.claim("plan-1") is not None
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(other.run, "plan-1")
        time.sleep(0.2)
        began = time.monotonic()
        other.asked.set() if how == "asked" else other.runner.stop()
        with pytest.raises(Interrupted):
            future.result(5)
    assert time.monotonic() - began < 0.4
    assert other.made.stopped == (how == "stop")
    with pytest.raises(Interrupted):
        other.run("plan-2")


def test_interrupted_run_is_free_at_once(hire: Hire, diary: Path) -> None:
    one, other = hire(), hire()

    def stopped(_: Result) -> bool:
        raise Interrupted

    with pytest.raises(Interrupted):
        one.run("plan-1", stopped)
    began = time.monotonic()
    assert other.run("plan-1").finished
    assert time.monotonic() - began < 1.0  # no grace
    assert begun(diary) == ["plan-1"] * 2


def test_result_of_a_run_that_was_taken_over_is_dropped(hire: Hire, diary: Path) -> None:
    slow, other = hire(0.0), hire(0.0)
    taken_over: list[Result] = []

    def follow(result: Result) -> bool:
        if not taken_over and len(result.epochs["val"]) == 1:
            claim = slow.claims.find("plan-1")
            assert claim is not None
            other.claims.withdraw(claim)  # as other workers do after the grace
            taken_over.append(other.run("plan-1"))
        return True

    assert slow.run("plan-1", follow) == taken_over[0]
    assert slow.record("plan-1") == other.record("plan-1")
    assert slow.said == [
        "The run plan-1 was taken over by another worker because this one did not respond, so "
        "its result here is discarded."
    ]
    assert begun(diary) == ["plan-1", "plan-1"]


def test_run_is_ended_as_soon_as_it_is_known_to_be_taken_over(hire: Hire, diary: Path) -> None:
    slow, other = hire(0.0, every=0.1), hire(0.0)
    seen: list[int] = []

    def follow(result: Result) -> bool:
        seen.append(len(result.epochs["val"]))
        if len(seen) == 3:
            claim = slow.claims.find("plan-1")
            assert claim is not None
            other.claims.withdraw(claim)
            other.run("plan-1")
            until = time.monotonic() + 10
            while not slow.claims.beats.lost(claim.trial_id) and time.monotonic() < until:
                time.sleep(0.02)
        return True

    assert slow.run("plan-1", follow).finished
    assert seen == [0, 0, 1]


def test_record_of_another_script_is_refused(hire: Hire) -> None:
    one, other = hire(), hire()
    one.run("plan-1")
    with pytest.raises(ReconError, match="damaged, or belongs to another script"):
        other.runner.run(Job("main.py", (), other.folder / "runs" / "plan-1.jsonl", "else"))
