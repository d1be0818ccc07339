"""Workers of one search, in processes of their own, whose runs train nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import libmtl_recon_search.run
from fake_runs import Asked, Curves, FakeRunner
from libmtl_recon_search.backends import Shared
from libmtl_recon_search.child import Job
from libmtl_recon_search.database.address import Address
from libmtl_recon_search.load import load_config
from libmtl_recon_search.process import Interrupted
from libmtl_recon_search.record import read_record
from libmtl_recon_search.result import Result

EPOCHS = 3


def better_in_the_middle(asked: Asked, task: str) -> Curves:
    """Each plan has a Δm of its own."""
    if asked.alone is not None:
        return [0.5] * EPOCHS, [0.5] * EPOCHS
    level = 0.6 - 0.001 * abs(asked.K - 5) + 0.0001 * (asked.alpha or 0.0)
    curve = [level - 0.02, level, level - 0.01]
    return curve, curve


class TimedRunner(FakeRunner):
    """Runs that take some seconds, and are written down in a diary when they begin and end."""

    def __init__(self, diary: Path, seconds: float) -> None:
        super().__init__(better_in_the_middle)
        self.diary, self.seconds = diary, seconds
        self.asked_to_stop: Callable[[], bool] = lambda: False

    def run(self, job: Job, follow: Callable[[Result], bool] = lambda _: True) -> Result:
        if job.start or job.describe:
            return super().run(job, follow)
        if read_record(job.events) is None:
            self._write("begins", job)
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:
                if self.asked_to_stop():
                    raise Interrupted
                time.sleep(0.01)
        return super().run(job, follow)

    def _write(self, what: str, job: Job) -> None:
        with self.diary.open("a", encoding="utf-8") as diary:
            diary.write(f"{what} {job.events.stem} {os.getpid()}\n")


def begun(diary: Path) -> list[str]:
    """The keys of the runs that were begun."""
    return [line.split()[1] for line in diary.read_text(encoding="utf-8").splitlines()]


def search(
    url: str,
    file: Path,
    out: Path,
    seconds: float,
    every: float = 0.25,
    grace: float = 3.0,
    dies: str = "",
    overrides: dict[str, Any] | None = None,
) -> None:
    """Run a worker of a search, which may be killed on the way."""
    runner = TimedRunner(file.parent / "diary", seconds)
    libmtl_recon_search.run.Runner = runner  # type: ignore[misc, assignment]
    libmtl_recon_search.run._draw = lambda *_: ()
    _prepare_death(dies)
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    runner.asked_to_stop = lambda: bool(signals)
    config = load_config(file, overrides)
    shared = Shared(Address.parse(url), every, grace)
    report = libmtl_recon_search.run.run(config, out, runner.asked_to_stop, shared).report
    print("best", report.best.title, report.trials)


def _prepare_death(phase: str) -> None:
    from libmtl_recon_search.database.beats import Beats
    from libmtl_recon_search.database.shared_study import SharedStudy
    from libmtl_recon_search.session import Session

    def die(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    def die_in(kind: str) -> None:
        before = TimedRunner.run

        def run(self: TimedRunner, job: Job, *follow: Any) -> Result:
            if job.events.stem.startswith(kind) and read_record(job.events) is None:
                self._write("begins", job)
                die()
            return before(self, job, *follow)

        TimedRunner.run = run  # type: ignore[method-assign]

    if phase in ("score", "single", "plan"):
        die_in(phase)
    if phase == "before the first heartbeat":
        hold, held = Beats.hold, []

        def hold_some(self: Beats, trial_id: int) -> None:
            held.append(trial_id)
            if len(held) == 3:
                die()
            hold(self, trial_id)

        Beats.hold = hold_some  # type: ignore[method-assign]
    if phase == "before a trial is told":
        SharedStudy.tell = die  # type: ignore[method-assign]
    if phase == "finalists":
        Session.outcomes = die  # type: ignore[method-assign]


def plans(keys: Sequence[str]) -> list[str]:
    """Return the keys that belong to plans."""
    return [key for key in keys if key.startswith("plan-")]
