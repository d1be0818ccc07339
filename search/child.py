"""One run of the user's script, in a process of its own.

LibMTL's argument parser is global to a process, so two runs cannot share one.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libmtl_recon import (
    Measurement,
    Observer,
    ProfileCache,
    ReconError,
    ScoringObserver,
    SingleTask,
    StopRun,
    known_weightings,
    run_script,
)


@dataclass(frozen=True)
class Job:
    """What a run is to do.

    Attributes:
        script: A path or a built-in problem.
        arguments: Its command line.
        events: The file to which it writes one JSON object a line.
        task: Train this task alone.
        profile: Score, and write the conflict profile to this file.
        steps: End the scoring after so many steps.
        threads: PyTorch's threads.
        requested: When it was asked for, in seconds of :func:`time.time`.
        folder: The working directory; by default that of the process.
        environment: The environment variables; by default those of the process.
    """

    script: str
    arguments: tuple[str, ...]
    events: Path
    task: str | None = None
    profile: Path | None = None
    steps: int | None = None
    threads: int = 1
    requested: float = 0.0
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where the script's own output goes."""
        return self.events.with_suffix(".log")


class Recorder(Observer):
    """Writes what the first Trainer does, in all its calls of ``train``, one JSON object a line."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("w", encoding="utf-8")
        self._trainer: Any = None

    def write(self, event: str, **values: Any) -> None:
        """Write one line, at once."""
        self._stream.write(json.dumps({"event": event, **values}) + "\n")
        self._stream.flush()

    def built(self, trainer: Any) -> None:
        """Write what the network and its metrics are, and which weightings there are."""
        if self._trainer is not None:
            return
        self._trainer = trainer
        higher = {
            task: dict(zip(about["metrics"], map(bool, about["weight"]), strict=True))
            for task, about in trainer.task_dict.items()
        }
        parameters = sum(p.numel() for p in trainer.model.parameters())
        self.write(
            "built",
            higher_is_better=higher,
            parameters=parameters,
            weightings=known_weightings(),
        )

    def training(self, trainer: Any) -> None:
        """Write that a script trains another model, too."""
        if not self._is_first(trainer):
            self.write("another model")

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Write what was measured; NaN and infinity, which JSON lacks, as null."""
        if not self._is_first(trainer):
            return
        self.write(
            "measured",
            epoch=measurement.epoch,
            mode=measurement.mode,
            losses=_finite(measurement.losses),
            metrics={task: _finite(values) for task, values in measurement.metrics.items()},
        )

    def _is_first(self, trainer: Any) -> bool:
        return trainer is self._trainer or trainer.model is self._trainer.model


def run_job(job: Job) -> None:
    """Run it; the target of the child process."""
    _detach()
    _die_with_parent()
    if job.folder is not None:
        os.chdir(job.folder)
    if job.environment:
        # A server from which runs are forked has the environment of the time it was started.
        os.environ.clear()
        os.environ.update(job.environment)
    with job.log.open("w", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        import torch

        torch.set_num_threads(job.threads)
        recorder = Recorder(job.events)
        recorder.write("started", after=round(time.time() - job.requested, 3))
        _run(job, recorder)
        sys.stdout.flush()
        sys.stderr.flush()


def _run(job: Job, recorder: Recorder) -> None:
    observers: list[Observer] = [recorder]
    if job.task is not None:
        observers.append(SingleTask(job.task))
    scoring = None
    if job.profile is not None:
        scoring = ScoringObserver(job.steps, on_built=_reuse(job, recorder))
        observers.append(scoring)
    status = run_script(job.script, job.arguments, observers=observers)
    profile = scoring.profile() if scoring is not None and status == 0 else None
    if profile is not None and job.profile is not None:
        job.profile.write_text(profile.to_json(), encoding="utf-8")
        try:
            ProfileCache().save(profile)
        except ReconError as error:
            # The search has the profile in its own folder; other runs will not find it.
            recorder.write("not cached", reason=str(error))
    recorder.write("ended", status=status)


def _reuse(job: Job, recorder: Recorder) -> Any:
    """Before the first step, take a profile of the very same architecture from the cache."""

    def look(layers: Any) -> None:
        recorder.write("layers", count=len(layers))
        try:
            match = ProfileCache().find(layers)
        except ReconError:
            return  # an unreadable cache holds nothing for us
        if match is None or not match.exact or job.profile is None:
            return
        profile = match.entry.profile
        if profile.steps >= (job.steps or 0):
            job.profile.write_text(profile.to_json(), encoding="utf-8")
            recorder.write("reused", profile=match.entry.id, steps=profile.steps)
            raise StopRun

    return look


def _detach() -> None:
    """Leave the terminal's process group: Ctrl-C is for the parent, which then ends its runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setsid"):
        # A group of its own also lets the parent end the run with all that it has started.
        os.setsid()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
