"""Runs that are torchrun jobs: what several ranks measure, and how they end."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forks import python
from libmtl_recon_search import load_config, process, ranks, run_search
from libmtl_recon_search.child import Job
from libmtl_recon_search.process import Interrupted, RunError, RunKilledError
from libmtl_recon_search.record import read_record
from libmtl_recon_search.report import command_line
from libmtl_recon_search.result import Result

from libmtl_recon import ConflictProfile, ProfileCache

from .conftest import TINY
from .forked import Forking, alive, can_fork, family_of, in_a_fork, until

pytestmark = can_fork
WriteConfig = Callable[..., Path]

BEGIN = """
import os, signal, sys, time
here, rank = os.path.dirname(os.path.abspath(__file__)), os.environ["RANK"]
def say(name, text):
    with open(os.path.join(here, name + ".new"), "w") as file:
        file.write(str(text))
    os.rename(os.path.join(here, name + ".new"), os.path.join(here, name))
say("rank" + rank, os.getpid())
"""
AGENT_AS_PARENT = """
import os, sys
def getppid(agent=int(sys.argv[2])):
    try:
        with open(f"/proc/{agent}/stat") as file:
            return agent if file.read().rsplit(")", 1)[1].split()[0] not in "ZX" else 1
    except OSError:
        return 1
os.getppid = getppid
""".replace("{", "{{").replace("}", "}}")
# In float64, in which ranks differ from one process by rounding alone.
DOUBLE = f"""
import os, runpy, torch
print("ranks", os.environ.get("WORLD_SIZE", 1))
torch.set_default_dtype(torch.float64)
runpy.run_path({str(TINY)!r}, run_name="__main__")
"""


@pytest.fixture
def forked_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are forks of a server, whose parent is therefore not the agent."""
    monkeypatch.setattr(ranks, "_PYTHON", tuple(python()))
    monkeypatch.setattr(ranks, "_RANK", AGENT_AS_PARENT + ranks._RANK)


@pytest.fixture
def make(tmp_path: Path, forked_ranks: None) -> Callable[[str], Job]:
    """A job whose script is this text; it needs no Trainer where it exits by itself."""

    def make(text: str) -> Job:
        script = tmp_path / "script.py"
        script.write_text(BEGIN + text, encoding="utf-8")
        return Job(str(script), (), tmp_path / "runs" / "plan-1.jsonl")

    return make


def ranks_in(folder: Path) -> list[int]:
    """The processes of both ranks, once they have begun."""
    return until(
        lambda: (
            [int(file.read_text()) for n in range(2) if (file := folder / f"rank{n}").exists()]
            if all((folder / f"rank{n}").exists() for n in range(2))
            else []
        )
    )


def events_of(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.events.read_text(encoding="utf-8").splitlines()]


def measured(job: Job) -> list[dict[str, Any]]:
    """The events of a run without its times, and without what it cost."""
    events = events_of(job)
    assert [event["event"] for event in events].count("cost") == 1
    events = [event for event in events if event["event"] != "cost"]
    varying = {"started": "after", "ended": "digest"}
    return [{k: v for k, v in e.items() if k != varying.get(e["event"])} for e in events]


# What they measure.


@pytest.mark.slow
def test_two_ranks_say_the_flags_of_their_script_once(tmp_path: Path, forked_ranks: None) -> None:
    script = tmp_path / "double.py"
    script.write_text(DOUBLE, encoding="utf-8")
    job = Job(str(script), (), tmp_path / "flags.jsonl", describe=True)
    found = Forking(1, ranks=2).run(job)
    assert found.known is not None
    assert {"epochs", "bs", "weighting"} <= set(found.known)
    assert [event["event"] for event in events_of(job)] == ["started", "flags", "ended"]


def test_a_trial_of_two_ranks_measures_what_one_process_does(
    tmp_path: Path, forked_ranks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "double.py"
    script.write_text(DOUBLE, encoding="utf-8")
    # A batch size that the ranks do not divide; two runs at a time, each with a port of its own.
    flags = ("--arch", "HPS", "--epochs", "2", "--bs", "33", "--seed", "3", "--weighting")
    found: dict[tuple[int, str], Job] = {}

    def run(number: int, weighting: str) -> None:
        events = tmp_path / f"{number}-{weighting}.jsonl"
        scored: dict[str, Any] = {}
        if weighting == "UW":
            scored = {"profile": tmp_path / f"{number}.json", "steps": 5}
        job = Job(str(script), (*flags, weighting), events, "this", **scored)
        Forking(1, ranks=number).run(job)
        found[number, weighting] = job

    together = [threading.Thread(target=run, args=(2, name)) for name in ("EW", "GradOPS")]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join(120)
    for weighting in ("EW", "GradOPS"):
        run(1, weighting)
    for number in (1, 2):
        monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / str(number)))
        run(number, "UW")
    # Two epochs; or one, which a second would have followed if the fifth step had not ended it.
    for weighting, passes in (("EW", 6), ("GradOPS", 6), ("UW", 3)):
        one, two = (measured(found[number, weighting]) for number in (1, 2))
        for number in (1, 2):
            assert found[number, weighting].log.read_text().startswith(f"ranks {number}\n")
        assert [e["event"] for e in two].count("measured") == passes
        for ours, wanted in zip(two, one, strict=True):
            numbers = ("losses", "metrics")
            assert {k: v for k, v in ours.items() if k not in numbers} == {
                k: v for k, v in wanted.items() if k not in numbers
            }
            for task, loss in wanted.get("losses", {}).items():
                assert ours["losses"][task] == pytest.approx(loss, abs=1e-12)
                own = wanted["metrics"][task]
                assert ours["metrics"][task] == pytest.approx(own, abs=1e-12)
    # Rank 0 alone keeps the profile.
    texts = [(tmp_path / f"{number}.json").read_text(encoding="utf-8") for number in (1, 2)]
    alone, both = map(ConflictProfile.from_json, texts)
    assert both.steps == 5
    assert (both.counts == alone.counts).all()
    (entry,) = ProfileCache(tmp_path / "2").list()
    assert entry.profile.to_json() == texts[1]


def test_ranks_take_a_profile_from_the_cache_and_all_end(
    tmp_path: Path, forked_ranks: None
) -> None:
    flags = ("--weighting", "EW", "--arch", "HPS", "--epochs", "2")
    results = []
    for number in range(2):
        file = tmp_path / f"score-{number}.jsonl"
        job = Job(str(TINY), flags, file, profile=tmp_path / f"{number}.json", steps=8)
        results.append(Forking(1, ranks=2).run(job))
    assert ["reused" in result.notes for result in results] == [False, True]
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()


def test_of_a_start_and_of_one_task_all_ranks_are_told(tmp_path: Path, forked_ranks: None) -> None:
    flags = ("--weighting", "EW", "--arch", "HPS", "--epochs", "1")
    runner = Forking(3, ranks=2)
    scored = Job(str(TINY), flags, tmp_path / "start-1.jsonl", start=True, steps=8)
    assert runner.run(scored).notes["layers"]["count"] == 5
    plain = Job(str(TINY), flags, tmp_path / "start-2.jsonl", start=True)
    assert runner.run(plain).epochs["train"] == []
    alone = runner.run(Job(str(TINY), flags, tmp_path / "single-1.jsonl", task="down"))
    assert alone.tasks == ("down",)
    assert "threads 3" in (tmp_path / "single-1.log").read_text()


# How they end.


def test_a_rank_that_fails_ends_the_others_and_its_reason_is_said(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make("""
if rank == "1":
    sys.exit("no such data: /data/nyu")
time.sleep(300)
""")
    with pytest.raises(RunError) as caught:
        Forking(1, ranks=2).run(job)
    assert str(caught.value) == (
        f"The run `{job.script}` failed with exit status 1. Its last lines: no such data: "
        f"/data/nyu . Its log is {job.log}."
    )
    assert not any(map(alive, ranks_in(tmp_path)))
    assert sorted(file.name for file in job.events.parent.iterdir()) == [
        "plan-1.jsonl",
        "plan-1.log",
    ]


def test_a_command_line_that_is_refused_is_a_fault_of_the_configuration(
    tmp_path: Path, forked_ranks: None
) -> None:
    job = Job(str(TINY), ("--nosuch", "3"), tmp_path / "start-1.jsonl", start=True)
    with pytest.raises(RunError) as caught:
        Forking(1, ranks=2).run(job)
    assert caught.value.reason.startswith("failed with exit status 2. Its error: ")
    assert "--nosuch" in caught.value.reason


ONE_GPU = f"""
import runpy, torch
meet = torch.distributed.init_process_group
torch.distributed.init_process_group = lambda backend, **how: meet("gloo", **how)
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
runpy.run_path({str(TINY)!r}, run_name="__main__")
"""


def test_more_ranks_than_gpus_are_refused_at_the_start(
    tmp_path: Path, forked_ranks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIBMTL_RECON_DEVICE", raising=False)
    script = tmp_path / "script.py"
    script.write_text(ONE_GPU, encoding="utf-8")
    flags = ("--weighting", "EW", "--arch", "HPS")
    with pytest.raises(RunError) as caught:
        Forking(1, ranks=2).run(Job(str(script), flags, tmp_path / "start-1.jsonl", start=True))
    assert caught.value.reason.startswith(
        "failed with exit status 2. Its error: --nproc-per-node must be at most the number of "
        "GPUs that are visible on this machine, 1 (got 2)."
    )


def test_a_rank_that_is_killed_is_no_fault_of_the_run(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make("""
first = os.path.join(here, "first of " + rank)
if not os.path.exists(first):
    say("first of " + rank, "")
    if rank == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(300)
sys.exit(0)
""")
    said: list[str] = []
    assert Forking(1, say=said.append, ranks=2).run(job).finished
    assert len(said) == 1
    assert "was killed by SIGKILL" in said[0]
    assert "It will be run once more." in said[0]


def test_of_a_rank_that_is_killed_while_it_trains_the_other_loses_no_word(
    tmp_path: Path, forked_ranks: None
) -> None:
    script = tmp_path / "script.py"
    script.write_text(BEGIN + f"import runpy; runpy.run_path({str(TINY)!r}, run_name='__main__')")
    flags = ("--weighting", "EW", "--arch", "HPS", "--epochs", "50", "--pause", "0.2")
    job = Job(str(script), flags, tmp_path / "plan-1.jsonl")
    found: list[BaseException] = []
    said: list[str] = []

    def run() -> None:
        try:
            Forking(1, say=said.append, ranks=2).run(job)
        except RunError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(2):
        until(lambda: job.events.exists() and b'"built"' in job.events.read_bytes())
        one, two = ranks_in(tmp_path)
        os.kill(two, signal.SIGKILL)
        until(lambda of=(one, two): not any(map(alive, of)))
        for number in range(2):
            (tmp_path / f"rank{number}").unlink()
    thread.join(60)
    assert len(said) == len(found) == 1
    assert "was killed by SIGKILL" in str(found[0])


def test_ranks_whose_guard_is_killed_end_and_the_run_is_made_once_more(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make("""
if os.path.exists(os.path.join(here, "again")):
    sys.exit(0)
time.sleep(300)
""")
    said: list[str] = []
    ended: list[bool] = []
    thread = threading.Thread(
        target=lambda: ended.append(Forking(1, say=said.append, ranks=2).run(job).finished)
    )
    thread.start()
    begun = ranks_in(tmp_path)
    # Of the processes of its own, the one that leads a group.
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    own = [int(number) for listed in children for number in listed.read_text().split()]
    (guard,) = (number for number in own if os.getpgid(number) == number)
    (tmp_path / "again").touch()
    os.kill(guard, signal.SIGKILL)
    until(lambda: not any(map(alive, begun)))
    thread.join(60)
    assert ended == [True]
    assert len(said) == 1
    assert "was killed by SIGKILL" in said[0]


@pytest.mark.parametrize(("count", "kind"), [(1, RunError), (2, RunKilledError)])
def test_a_rank_that_was_killed_counts_more_than_what_rank_0_then_ended_with(
    count: int, kind: type[RunError], tmp_path: Path
) -> None:
    job = Job("main.py", (), tmp_path / "plan-1.jsonl", ranks=count)
    assert type(process._failure(job, 1, -signal.SIGKILL)) is kind
    assert type(process._failure(job, 1, 1)) is RunError


IGNORES = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.parametrize("how", ["stopped", "too long", "pruned", "deaf"])
def test_a_run_that_is_ended_ends_with_all_its_ranks(
    how: str, make: Callable[[str], Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libmtl_recon_search.guard.PATIENCE", 0.5)
    job = make((IGNORES if how == "deaf" else "") + "time.sleep(300)")
    runner = Forking(1, 4.0 if how == "too long" else None, ranks=2)
    if how == "pruned":
        pids: list[int] = []

        def follow(_: Result) -> bool:
            pids.extend(ranks_in(tmp_path))
            return False

        assert "ended early" in runner.run(job, follow).notes
    elif how == "too long":
        with pytest.raises(RunError, match=r"ended after 4 seconds"):
            runner.run(job)
    else:
        watch = threading.Thread(target=lambda: ranks_in(tmp_path) and runner.stop())
        watch.start()
        with pytest.raises(Interrupted):
            runner.run(job)
        watch.join(10)
    # All that have come so far as to say who they are.
    begun = [int(file.read_text()) for file in tmp_path.glob("rank?")]
    assert len(begun) == 2 or how == "too long"
    until(lambda: not any(map(alive, begun)))
    assert not job.scratch.exists()
    assert read_record(job.events) is None


def test_no_rank_outlives_a_search_that_is_killed(
    make: Callable[[str], Job], tmp_path: Path
) -> None:
    job = make("time.sleep(300)")
    number = in_a_fork(lambda: Forking(1, ranks=2).run(job) and None, tmp_path / "log")
    family = [*ranks_in(tmp_path), *family_of(number)]
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    until(lambda: not any(map(alive, family)))


def test_a_rank_ends_when_the_agent_does(tmp_path: Path) -> None:
    def rank() -> None:
        parent = os.getpid()
        if os.fork() == 0:
            ranks._end_with(parent)
            (tmp_path / "rank").write_text(str(os.getpid()))
            signal.pause()
        signal.pause()

    agent = in_a_fork(rank, tmp_path / "log")
    number = int(until(lambda: (tmp_path / "rank").exists() and (tmp_path / "rank").read_text()))
    os.kill(agent, signal.SIGKILL)
    os.waitpid(agent, 0)
    until(lambda: not alive(number))


# As a user has it.


def test_ranks_are_interpreters_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What lies in the working folder is no module of theirs, as it is none of a run of one process.
    (tmp_path / "LibMTL.py").write_text("raise RuntimeError('another LibMTL')")
    monkeypatch.chdir(tmp_path)
    flags = ("--weighting", "EW", "--arch", "HPS", "--epochs", "1")
    result = Forking(1, ranks=2).run(Job(str(TINY), flags, tmp_path / "plan-1.jsonl"))
    assert result.finished
    assert len(result.epochs["val"]) == 1


def test_the_command_of_a_report_starts_as_many_ranks() -> None:
    assert command_line("main.py", ("--lr", "1"), 3, 4) == (
        "OMP_NUM_THREADS=3 torchrun --standalone --nproc-per-node=4 -m libmtl_recon run main.py "
        "--lr 1"
    )
    assert command_line("main.py", (), 1) == "OMP_NUM_THREADS=1 libmtl-recon run main.py"


@pytest.mark.slow
def test_a_search_of_torchrun_jobs(write_config: WriteConfig, tmp_path: Path) -> None:
    script = tmp_path / "double.py"
    script.write_text(DOUBLE, encoding="utf-8")
    small: dict[str, Any] = {
        "script": str(script),
        "flags": {"epochs": 2},
        "trials": 2,
        "confirm": [1],
        "finalists": {"count": 1, "seeds": []},
        "workers": 1,
    }
    reports = []
    for number in (1, 2):
        config = load_config(write_config(**small, launch={"nproc_per_node": number}))
        reports.append(run_search(config, tmp_path / str(number)))
    one, two = reports
    assert two.best == one.best
    assert two.gain.mean == pytest.approx(one.gain.mean, abs=1e-6)
    assert "torchrun" in two.command
    # Going on in one process is the same search.
    config = load_config(write_config(**small))
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "2" / "runs").glob("*.jsonl")}
    assert run_search(config, tmp_path / "2").best == one.best
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "2" / "runs").glob("*.jsonl")} == before
