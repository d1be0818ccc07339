"""One run of the user's script, in a separate process.

LibMTL's argument parser is global to a process, so two runs cannot share one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libmtl_recon_search.guard import guarded
from libmtl_recon_search.recorder import Recorder, give_up

from libmtl_recon import (
    ConflictProfile,
    ProfileCache,
    ReconError,
    ScoringHook,
    ScriptFlags,
    SingleTask,
    StopRun,
    TrainerHook,
    run_script,
    script_flags,
)
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.schedule import Schedule
from libmtl_recon.files import write_atomically
from libmtl_recon.profiles.scoring_lock import ScoringLock


@dataclass(frozen=True)
class Job:
    """The instructions for a run.

    Attributes:
        script: A path or the name of a built-in problem.
        arguments: The command line of the script.
        events: The file to which the run writes one JSON object per line.
        search: A digest of the script and of the versions, which identifies the runs of a search.
        task: Train only this task.
        profile: Score, and write the conflict profile to this file.
        steps: End the scoring after this number of steps; None scores the whole training.
        every: Score every n-th training step.
        reuse: Whether to use a profile of exactly the same architecture from the cache.
        cached: Whether the profile is kept in the cache as well.
        start: End when the network is built; with ``steps``, count its layers as scoring does.
        describe: End when the script reads its command line, and write its flags.
        threads: The number of PyTorch's threads in each rank.
        ranks: The number of processes that train the script, started as torchrun does.
        requested: The time of the request, in seconds of :func:`time.time`.
        folder: The working directory; by default that of the process.
        environment: The environment variables; by default those of the process.
    """

    script: str
    arguments: tuple[str, ...]
    events: Path
    search: str = ""
    task: str | None = None
    profile: Path | None = None
    steps: int | None = None
    every: int = 1
    reuse: bool = True
    cached: bool = True
    start: bool = False
    describe: bool = False
    threads: int = 1
    ranks: int = 1
    requested: float = 0.0
    folder: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        """The file to which the script's output is redirected."""
        return self.events.with_suffix(".log")

    @property
    def scratch(self) -> Path:
        """The temporary folder for the ranks of a run."""
        return self.events.with_suffix(".ranks")


def run_job(job: Job) -> None:
    """Run a job in this process; the target of the child process."""
    with prepared(job):
        measure(job)


@contextlib.contextmanager
def prepared(job: Job) -> Iterator[None]:
    """Prepare a child process for a run: its guard, environment and log."""
    _detach()
    if not guarded():
        _die_with_parent()
    if job.folder is not None:
        os.chdir(job.folder)
    if job.environment:
        # The server from which runs are forked has the environment of its start.
        os.environ.clear()
        os.environ.update(job.environment)
    try:
        log = job.log.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        give_up(error)
    with log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
            # The log's own number is this one where the search was started without the stream.
            os.set_inheritable(stream, True)
        yield


def measure(job: Job, *, first: bool = True) -> int:
    """Run the script of a job, and record its measurements.

    Args:
        job: The job to run.
        first: Whether this process writes the record; of several ranks, only the first does.

    Returns:
        The script's exit status.
    """
    import torch

    torch.set_num_threads(job.threads)
    recorder = Recorder(job.events if first else None)
    after = round(time.time() - job.requested, 3)
    recorder.write("started", after=after, search=job.search)
    status = _run(job, recorder, first)
    with contextlib.suppress(OSError):  # the record, which counts, is written
        sys.stdout.flush()
        sys.stderr.flush()
    return status


def _run(job: Job, recorder: Recorder, first: bool) -> int:
    # All ranks have the same hooks, though most are told something on the first alone.
    hooks: list[TrainerHook] = [recorder]
    if job.task is not None:
        hooks.append(SingleTask(job.task))
    if job.start:
        scored = job.steps is not None
        hooks.append(ScoringHook(on_built=_count_layers(recorder)) if scored else _Stopping())
    if job.describe:
        with script_flags(_write_flags(recorder)):
            status = run_script(job.script, job.arguments, hooks=hooks)
    elif job.profile is None:
        status = run_script(job.script, job.arguments, hooks=hooks)
    elif first:
        status = _score(job, job.profile, recorder, hooks)
    else:
        scoring = ScoringHook(_schedule(job))
        status = run_script(job.script, job.arguments, hooks=[*hooks, scoring])
    recorder.end(status)
    return status


def _score(job: Job, file: Path, recorder: Recorder, hooks: list[TrainerHook]) -> int:
    """Run the script with scoring, and store the profile."""
    # Before the script, which may change the working folder.
    cache = ProfileCache()
    lock = ScoringLock(cache, lambda text: recorder.write("waiting", text=text))
    scoring = ScoringHook(_schedule(job), on_built=_reuse(job, file, cache, lock, recorder))
    try:
        status = run_script(job.script, job.arguments, hooks=[*hooks, scoring])
        profile = scoring.profile() if status == 0 else None
        if profile is not None:
            _keep(profile, file)
            try:
                if job.cached:
                    cache.save(profile)
            except ReconError as error:
                # The search has the profile in its own folder; other runs will not find it.
                recorder.write("not cached", reason=str(error))
    finally:
        lock.release()
    return status


def _schedule(job: Job) -> Schedule:
    return Schedule(job.steps, job.every)


class _Stopping(TrainerHook):
    """Hook that ends the script when the network is built."""

    def built(self, trainer: Any) -> None:
        raise StopRun


def _write_flags(recorder: Recorder) -> Callable[[ScriptFlags], None]:
    return lambda flags: recorder.write("flags", known=flags.known, several=flags.several)


def _count_layers(recorder: Recorder) -> Callable[[tuple[Layer, ...]], None]:
    def count(layers: tuple[Layer, ...]) -> None:
        _write_layers(recorder, layers)
        raise StopRun

    return count


def _write_layers(recorder: Recorder, layers: Sequence[Layer]) -> None:
    known = [[layer.name, layer.type, layer.shapes] for layer in layers]
    recorder.write("layers", count=len(layers), layers=known)


def _reuse(job: Job, file: Path, cache: ProfileCache, lock: ScoringLock, recorder: Recorder) -> Any:
    """Load a profile of exactly the same architecture from the cache, before the first step.

    If there is none, wait for another process that may be computing it.
    """

    def look(layers: Any) -> None:
        _write_layers(recorder, layers)
        if not job.reuse:
            return
        try:
            take(layers)
            lock.acquire(layers)
            recorder.write("turn")
            # Also where nobody was waited for: another may have ended between these two lines.
            take(layers)
        except ReconError:
            return  # an unreadable cache holds nothing for us

    def take(layers: Any) -> None:
        match = cache.find(layers)
        if match is not None and match.exact and match.entry.profile.steps >= (job.steps or 0):
            _keep(match.entry.profile, file)
            steps = match.entry.profile.steps
            recorder.write("reused", profile=match.entry.id, steps=steps)
            raise StopRun

    return look


def _keep(profile: ConflictProfile, file: Path) -> None:
    try:
        write_atomically(file, profile.to_json())
    except OSError as error:
        give_up(error)


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
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
