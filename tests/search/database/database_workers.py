"""Workers in processes of their own, whose runs take as long as a test wants and train nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
from libmtl_recon_search.child import Job
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.database.beats import Beats
from libmtl_recon_search.database.claims import Claims
from libmtl_recon_search.database.opening import open_storage
from libmtl_recon_search.database.shared_runner import SharedRunner
from libmtl_recon_search.process import Follow
from libmtl_recon_search.record import read_record
from libmtl_recon_search.recorder import Recorder
from libmtl_recon_search.result import Result, read_events

NAME = "digits/runs"


class PretendedRunner:
    """Makes runs of some epochs of some seconds; writes down in a file which it has begun."""

    def __init__(self, diary: Path, seconds: float = 0.0, epochs: int = 3) -> None:
        self.diary, self.seconds, self.epochs = diary, seconds, epochs
        self.stopped = False
        self.fails: Callable[[Job], Exception | None] = lambda job: None

    def stop(self) -> None:
        self.stopped = True

    def run(self, job: Job, follow: Follow = lambda _: True) -> Result:
        finished = read_record(job.events, job.search)
        if finished is not None:
            return finished
        with self.diary.open("a", encoding="utf-8") as diary:
            diary.write(f"{job.events.stem} {os.getpid()}\n")
        error = self.fails(job)
        if error is not None:
            raise error
        job.events.parent.mkdir(parents=True, exist_ok=True)
        recorder = Recorder(job.events)
        assert recorder._stream is not None
        with recorder._stream:
            return self._make(job, follow, recorder)

    def _make(self, job: Job, follow: Follow, recorder: Recorder) -> Result:
        read, result = 0, Result()
        recorder.write("started", search=job.search)
        weightings = ["EW"]
        recorder.write(
            "built", higher_is_better={"a": {"Acc": True}}, parameters=7, weightings=weightings
        )
        for epoch in range(self.epochs):
            time.sleep(self.seconds)
            metrics = {"a": {"Acc": 0.5 + 0.1 * epoch}}
            recorder.write("measured", epoch=epoch, mode="val", losses={}, metrics=metrics)
            for event, position in read_events(job.events, read):
                read = position
                result.add(event)
                if not follow(result):
                    result.notes["ended early"] = True
                    return result
        if job.profile is not None:
            job.profile.write_text("profile of " + job.events.stem, encoding="utf-8")
        recorder.end(0)
        return read_record(job.events, job.search) or result


def begun(diary: Path) -> list[str]:
    """The keys of the runs that were begun, in order."""
    lines = diary.read_text(encoding="utf-8").splitlines() if diary.exists() else []
    return [line.split()[0] for line in lines]


def job(folder: Path, key: str, **more: Any) -> Job:
    """A run, whose files lie in a worker's own folder."""
    return Job("main.py", (), folder / "runs" / f"{key}.jsonl", "search", **more)


class Crew:
    """Workers in processes."""

    def __init__(self, folder: Path) -> None:
        self._context: Any = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["libmtl_recon_search.database.shared_runner"])
        self._folder = folder
        self.processes: list[Any] = []

    def barrier(self, parties: int) -> Any:
        return self._context.Barrier(parties)

    def start(self, target: Callable[..., None], *args: Any) -> Any:
        log = self._folder / f"worker-{len(self.processes)}.log"
        process = self._context.Process(target=_logged, args=(log, target, args))
        process.start()
        self.processes.append(process)
        return process

    def said(self) -> str:
        """Return the output of all workers."""
        return "".join(log.read_text() for log in sorted(self._folder.glob("worker-*.log")))

    def join(self, seconds: float = 120.0) -> list[int]:
        """Wait for all; their exit codes."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def end(self) -> None:
        for process in self.processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.join()


def _logged(log: Path, target: Callable[..., None], args: Sequence[Any]) -> None:
    with log.open("w", buffering=1) as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # as a search does
    try:
        target(*args)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        with suppress(ValueError):
            sys.stdout.flush()


def claim_in_turn(url: str, keys: Sequence[str], all_at_once: Any, out: Path) -> None:
    """Claim each key at the same moment as all others; write down which are ours."""
    storage = open_storage(Address.parse(url), print)
    beats = Beats(storage, print)
    claims = Claims(storage, NAME, beats)
    for key in keys:
        all_at_once.wait(60)
        if claims.claim(key) is not None:
            with out.open("a") as stream:
                stream.write(f"{key}\n")
    beats.close()
    storage.close()


def open_at_once(url: str, all_at_once: Any) -> None:
    all_at_once.wait(60)
    storage = open_storage(Address.parse(url), print)
    beats = Beats(storage, print)
    claims = Claims(storage, NAME, beats)
    claims.claim("key")
    beats.close()
    storage.close()


def work(
    url: str,
    folder: Path,
    keys: Sequence[str],
    seconds: float,
    dies: str = "",
    every: float = 0.25,
    grace: float = 2.0,
) -> None:
    """Have all runs made, some of them perhaps here, and die on the way if that is wanted."""
    storage = open_storage(Address.parse(url), print)
    beats = Beats(storage, print, every, grace)
    claims = Claims(storage, NAME, beats)
    _prepare_death(dies)
    print("is there")
    runner = PretendedRunner(folder.parent / "diary", seconds)
    shared = SharedRunner(runner, claims, print)
    for key in keys:
        shared.run(job(folder, key, profile=folder / "profile.json" if key == "score" else None))
        print("has", key)
    beats.close()
    storage.close()


def _prepare_death(phase: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if phase == "before the first heartbeat":
        Beats.hold = die  # type: ignore[method-assign]
    if phase == "in the work":
        Recorder.end = die  # type: ignore[method-assign]
    if phase == "before publishing":
        Claims.publish = die  # type: ignore[assignment]
    if phase == "before it is told":
        from libmtl_recon_search.database.lasting import LastingStorage

        LastingStorage.set_trial_state_values = die  # type: ignore[assignment]
