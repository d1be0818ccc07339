"""Starting runs as child processes, following them, and reading what they wrote."""

from __future__ import annotations

import json
import math
import multiprocessing
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from libmtl_recon import ReconError
from search.child import Job, run_job
from search.objective import Metrics, relative_improvement

_POLL = 0.03  # seconds between looks at a child's events
_LAST_LINES = 6
_ERROR = "libmtl-recon: error: "


@dataclass
class Result:
    """What a run measured.

    Attributes:
        higher_is_better: For each task and metric, whether more is better.
        parameters: The network's number of parameters.
        epochs: For ``val`` and ``test``, the metrics after each epoch.
        notes: Other events, e.g. ``reused``.
    """

    higher_is_better: dict[str, dict[str, bool]] = field(default_factory=dict)
    parameters: int = 0
    epochs: dict[str, list[Metrics]] = field(default_factory=lambda: {"val": [], "test": []})
    notes: dict[str, Any] = field(default_factory=dict)

    def add(self, event: dict[str, Any]) -> None:
        """Take in one event."""
        if event["event"] == "built":
            self.higher_is_better = event["higher_is_better"]
            self.parameters = event["parameters"]
        elif event["event"] == "measured":
            # An evaluation outside of training (no epoch) is the script's own business.
            if event["mode"] in self.epochs and event["epoch"] is not None:
                self.epochs[event["mode"]].append(_with_nan(event["metrics"]))
        else:
            self.notes[event["event"]] = event

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that were trained."""
        return tuple(self.higher_is_better)

    @property
    def finished(self) -> bool:
        """Whether the run ended well."""
        return bool(self.notes.get("ended", {}).get("status") == 0)

    def improvements(self, single_task: Metrics, on: str) -> list[float]:
        """Δm after each epoch."""
        return [
            relative_improvement(metrics, single_task, self.higher_is_better)
            for metrics in self.epochs[on]
        ]

    def best_epoch(self, single_task: Metrics | None, on: str) -> int:
        """The epoch with the highest Δm; for a single-task run, relative to its own last epoch."""
        gains = self.improvements(single_task or self.epochs[on][-1], on)
        return max(range(len(gains)), key=gains.__getitem__)


class Interrupted(BaseException):
    """The search was asked to stop while this run was going on."""


class Runner:
    """Starts runs and waits for them, from several threads at once.

    Where the system can fork, children are forked from a server that has PyTorch and LibMTL in
    memory and has run nothing, which starts a run in a fraction of a second.

    Args:
        threads: PyTorch's threads in each run.
    """

    def __init__(self, threads: int) -> None:
        methods = multiprocessing.get_all_start_methods()
        self.method = "forkserver" if "forkserver" in methods else "spawn"
        self._context: Any = multiprocessing.get_context(self.method)
        if self.method == "forkserver":
            self._context.set_forkserver_preload(["libmtl_recon.plugin.preload"])
        self._threads = threads
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all runs that are going on; their callers get :class:`Interrupted`."""
        self._stopped.set()

    def run(self, job: Job, follow: Callable[[Result], bool] = lambda _: True) -> Result:
        """Run a job to its end, or take the result that an earlier search left.

        Args:
            job: What to run.
            follow: Told of the result so far whenever something was measured; false ends the run.

        Raises:
            ReconError: The run failed; names its log and the log's last lines.
            Interrupted: :meth:`stop` was called.
        """
        finished = read_finished(job.events)
        if finished is not None:
            return finished
        job.events.parent.mkdir(parents=True, exist_ok=True)
        job.events.unlink(missing_ok=True)
        job = replace(job, threads=self._threads, requested=time.time())
        process = self._context.Process(target=run_job, args=(job,), daemon=True)
        process.start()
        try:
            return self._follow(job, process, follow)
        finally:
            _end(process)

    def _follow(self, job: Job, process: Any, follow: Callable[[Result], bool]) -> Result:
        result, read = Result(), 0
        while True:
            if self._stopped.is_set():
                raise Interrupted
            alive = process.is_alive()
            for event, end in _events(job.events, read):
                read = end
                result.add(event)
                if event["event"] == "measured" and not follow(result):
                    result.notes["ended early"] = True
                    return result
            if not alive:
                break
            process.join(_POLL)
        ended = result.notes.get("ended", {}).get("status")
        if ended != 0:
            raise _failure(job, ended if ended is not None else process.exitcode)
        return result


def read_result(events: Path) -> Result:
    """What a run has written so far."""
    result = Result()
    for event, _ in _events(events, 0):
        result.add(event)
    return result


def read_finished(events: Path) -> Result | None:
    """The result of a run that ended well; None if there is none."""
    result = read_result(events)
    return result if result.finished else None


def _events(file: Path, start: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The complete lines of a file from a position on, each with the position behind it."""
    if not file.exists():
        return
    with file.open("rb") as stream:
        stream.seek(start)
        for line in stream:
            if not line.endswith(b"\n"):
                return  # still being written
            start += len(line)
            yield json.loads(line), start


def _with_nan(metrics: dict[str, dict[str, float | None]]) -> Metrics:
    return {
        task: {name: math.nan if value is None else value for name, value in values.items()}
        for task, values in metrics.items()
    }


def _failure(job: Job, status: int | None) -> ReconError:
    how = f"was killed by signal {-status}" if status is not None and status < 0 else "failed"
    lines = job.log.read_text(encoding="utf-8").splitlines() if job.log.exists() else []
    ours = [line for line in lines if line.startswith(_ERROR)][-1:]
    said = " | ".join(line.strip() for line in ours or lines[-_LAST_LINES:] if line.strip())
    command = shlex.join([job.script, *job.arguments])
    return ReconError(
        f"The run `{command}` {how} (exit status {status}): "
        f"{said.removeprefix(_ERROR) or 'it said nothing.'} Its log is {job.log}."
    )


def _end(process: Any) -> None:
    if process.is_alive():
        process.terminate()
        process.join(5)
    if process.is_alive():
        process.kill()
    process.join()
    process.close()
