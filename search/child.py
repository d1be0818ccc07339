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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libmtl_recon import (
    Measurement,
    Observer,
    ProfileCache,
    ScoringObserver,
    SingleTask,
    StopRun,
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
    """

    script: str
    arguments: tuple[str, ...]
    events: Path
    task: str | None = None
    profile: Path | None = None
    steps: int | None = None
    threads: int = 1
    requested: float = 0.0

    @property
    def log(self) -> Path:
        """Where the script's own output goes."""
        return self.events.with_suffix(".log")


class Recorder(Observer):
    """Writes what a Trainer does, one JSON object a line."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("w", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:
        """Write one line, at once."""
        self._stream.write(json.dumps({"event": event, **values}) + "\n")
        self._stream.flush()

    def built(self, trainer: Any) -> None:
        """Write what the network and its metrics are."""
        higher = {
            task: dict(zip(about["metrics"], map(bool, about["weight"]), strict=True))
            for task, about in trainer.task_dict.items()
        }
        parameters = sum(p.numel() for p in trainer.model.parameters())
        self.write("built", higher_is_better=higher, parameters=parameters)

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Write what was measured; NaN and infinity, which JSON lacks, as null."""
        metrics = {
            task: {name: _finite(value) for name, value in values.items()}
            for task, values in measurement.metrics.items()
        }
        self.write("measured", epoch=measurement.epoch, mode=measurement.mode, metrics=metrics)


def run_job(job: Job) -> None:
    """Run it; the target of the child process."""
    # Ctrl-C reaches the whole process group; the parent decides what becomes of its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    with job.log.open("w", encoding="utf-8", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        import torch

        torch.set_num_threads(job.threads)
        recorder = Recorder(job.events)
        recorder.write("started", after=round(time.time() - job.requested, 3))
        observers: list[Observer] = [recorder]
        if job.task is not None:
            observers.append(SingleTask(job.task))
        scoring = None
        if job.profile is not None:
            scoring = ScoringObserver(job.steps, on_built=_reuse(job.profile, recorder))
            observers.append(scoring)
        status = run_script(job.script, job.arguments, observers=observers)
        profile = scoring.profile() if scoring is not None and status == 0 else None
        if profile is not None and job.profile is not None:
            ProfileCache().save(profile)
            job.profile.write_text(profile.to_json(), encoding="utf-8")
        recorder.write("ended", status=status)
        sys.stdout.flush()
        sys.stderr.flush()


def _reuse(target: Path, recorder: Recorder) -> Any:
    """Before the first step, take a profile of the very same architecture from the cache."""

    def look(layers: Any) -> None:
        match = ProfileCache().find(layers)
        if match is not None and match.exact:
            target.write_text(match.entry.profile.to_json(), encoding="utf-8")
            recorder.write("reused", profile=match.entry.id)
            raise StopRun

    return look


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
