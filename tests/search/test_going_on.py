"""Whole searches on failing machines: what is damaged, in the way, or shared with others."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from libmtl_recon_search import load_config
from libmtl_recon_search.child import Job
from libmtl_recon_search.config import Config
from libmtl_recon_search.record import read_record
from libmtl_recon_search.result import Result
from libmtl_recon_search.trouble import MachineError

from libmtl_recon import ProfileCache, ReconError
from libmtl_recon.cli.stopping import told_to_stop

from .conftest import TINY
from .forked import Forking, alive, can_fork, family_of, in_a_fork, run_search_forking, until

pytestmark = can_fork
WriteConfig = Callable[..., Path]

SMALL: dict[str, Any] = {
    "flags": {"epochs": 1},
    "trials": 2,
    "confirm": [1],
    "finalists": {"count": 1, "seeds": []},
}


@pytest.fixture
def config(write_config: WriteConfig) -> Config:
    return load_config(write_config(**SMALL))


def test_all_that_is_damaged_is_set_aside_and_the_search_comes_to_the_same(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    report = run_search_forking(config, out)
    capsys.readouterr()
    best = max((out / "runs").glob("plan-*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    damaged = [out / "profile.json", out / "search.json", out / "study.db", best]
    whole = {file: file.read_bytes() for file in (out / "runs").glob("*.jsonl") if file != best}
    for file in damaged:
        file.write_bytes(bytes(file.stat().st_size))
    assert run_search_forking(config, out) == report
    said = capsys.readouterr().err
    for file in damaged:
        assert f"renamed to {file.name}.damaged-1" in said
        assert not any(file.with_name(f"{file.name}.damaged-1").read_bytes())
    # The scoring run reads the profile from the cache; the others are there.
    changed = [file.name for file, content in whole.items() if file.read_bytes() != content]
    assert all(name.startswith("score-") for name in changed)
    assert len(changed) == 1


def test_no_room_for_the_report_loses_nothing(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def full(file: Path, _: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

    with monkeypatch.context() as patch:
        patch.setattr("libmtl_recon_search.report.write_atomically", full)
        with pytest.raises(MachineError, match=r"report\.md: No space left.*same command"):
            run_search_forking(config, out)
    written = {file: file.stat().st_mtime_ns for file in (out / "runs").iterdir()}
    assert not (out / "report.md").exists()
    run_search_forking(config, out)
    assert {file: file.stat().st_mtime_ns for file in (out / "runs").iterdir()} == written
    assert (out / "report.md").read_text(encoding="utf-8").startswith("# Search report")


def test_a_script_that_changes_the_working_folder(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIBMTL_RECON_CACHE", "profiles")
    Path("sub").mkdir()
    Path("sub/script.py").write_bytes(TINY.read_bytes())
    write_config(**{**SMALL, "script": "sub/script.py", "flags": {"epochs": 1, "fault": "chdir"}})
    report = run_search_forking(load_config("tiny.yaml"), Path("out"))
    assert len(ProfileCache(tmp_path / "profiles").list()) == 1
    assert (tmp_path / "out" / "report.json").exists()
    assert str(tmp_path / "sub" / "script.py") in report.command


# One cache, several searches.


def scoring(home: Path, pause: float) -> Job:
    flags = ("--weighting", "EW", "--arch", "HPS", "--pause", str(pause))
    return Job(str(TINY), flags, home / "score-1.jsonl", profile=home / "profile.json", steps=8)


def test_four_searches_with_one_cache_score_once(tmp_path: Path) -> None:
    results: dict[int, Result] = {}

    def one(number: int) -> None:
        home = tmp_path / str(number)
        results[number] = Forking(1).run(scoring(home, 0.1))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    reused = [result for result in results.values() if "reused" in result.notes]
    assert (len(results), len(reused)) == (4, 3)
    assert all("Another process is scoring" in r.notes["waiting"]["text"] for r in reused)
    (entry,) = ProfileCache().list()
    texts = {(tmp_path / str(n) / "profile.json").read_text(encoding="utf-8") for n in range(4)}
    assert texts == {entry.profile.to_json()}


def test_where_the_one_that_scores_is_killed_another_takes_over(tmp_path: Path) -> None:
    slow, quick = scoring(tmp_path / "slow", 20.0), scoring(tmp_path / "quick", 0.0)
    owner = in_a_fork(lambda: Forking(1).run(slow) and None, tmp_path / "log")
    until(lambda: slow.events.exists() and b'"turn"' in slow.events.read_bytes())
    done: list[Result] = []
    other = threading.Thread(target=lambda: done.append(Forking(1).run(quick)))
    other.start()
    until(lambda: quick.events.exists() and b'"waiting"' in quick.events.read_bytes())
    family = family_of(owner)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    other.join(60)
    until(lambda: not any(map(alive, family)))
    assert len(done) == 1
    assert done[0].finished
    assert "reused" not in done[0].notes
    assert [entry.profile.steps for entry in ProfileCache().list()] == [8]


def test_the_time_of_waiting_does_not_count(tmp_path: Path) -> None:
    slow, quick = scoring(tmp_path / "slow", 0.5), scoring(tmp_path / "quick", 0.0)
    owner = threading.Thread(target=lambda: Forking(1).run(slow))
    owner.start()
    until(lambda: slow.events.exists() and b'"turn"' in slow.events.read_bytes())
    start = time.monotonic()
    result = Forking(1, timeout=1.5).run(quick)
    waited = time.monotonic() - start
    owner.join(60)
    assert "reused" in result.notes
    assert waited > 0.5


# A run that hangs, and signals.


def test_a_trial_that_hangs_is_ended_and_the_search_goes_on(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hangs = {"GradOPS": {"fault": "none", "pause": 60.0}}
    space = {
        "weighting": ["EW", "GradOPS"],
        "flags": hangs,
        "s": [-0.1],
        "k": {"low": 0, "high": 2},
    }
    more = {**SMALL, "space": space, "trials": 4, "timeout": {"run": 6}}
    report = run_search_forking(load_config(write_config(**more)), tmp_path / "out")
    said = capsys.readouterr().err
    assert report.best.weighting == "EW"
    assert (
        report.failed == said.count("was ended after 6 seconds, because of `timeout: {run: 6}`") > 0
    )
    assert f"{report.failed} of {report.trials} trials failed." in report.caption
    found = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (found["failed"], found["trials"]) == (report.failed, report.trials)


def waiting(folder: Path) -> Callable[[], None]:
    """Work that takes its time when it is interrupted."""

    def work() -> None:
        with told_to_stop(own_process=True) as signals:
            (folder / "began").touch()
            until(lambda: signals)
            (folder / "ends").write_text(str(signals))
            time.sleep(300)

    return work


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_ctrl_c_ends_a_search_at_once(first: signal.Signals, tmp_path: Path) -> None:
    number = in_a_fork(waiting(tmp_path), tmp_path / "log")
    until((tmp_path / "began").exists)
    os.kill(number, first)
    until((tmp_path / "ends").exists)
    assert until((tmp_path / "ends").read_text) == str([int(first)])
    assert alive(number)
    os.kill(number, signal.SIGINT)
    assert os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) == -signal.SIGINT


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    def work() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with told_to_stop(own_process=True) as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals == []

    number = in_a_fork(work, tmp_path / "log")
    assert os.waitpid(number, 0)[1] == 0


def test_a_damaged_record_of_the_first_runs_stops_nothing(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run_search_forking(config, out)
    for file in (out / "runs").glob("s*.jsonl"):  # single tasks, scores
        file.write_bytes(file.read_bytes()[:-20] + b"\0" * 20)
        with pytest.raises(Exception, match="damaged"):
            read_record(file)
    assert run_search_forking(config, out) == report
    with pytest.raises(ReconError, match="Another search"):
        run_in_use(config, out)


def run_in_use(config: Config, out: Path) -> None:
    from libmtl_recon_search.folder import SearchFolder

    with SearchFolder(out).opened(config):
        run_search_forking(config, out)
