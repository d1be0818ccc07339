"""Starting runs as child processes, following them, and reading what they wrote."""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from libmtl_recon import ReconError
from search.child import Job, run_job
from search.result import Result, read_events, read_finished

_POLL = 0.03  # seconds between looks at a child's events
_LAST_LINES = 6
# What argparse and we write before an error's text.
_ERROR = re.compile(r"^\S[\w .\-/]*: error: ")
_PATIENCE = 5.0  # seconds that a run has to end when told to

Follow = Callable[[Result], bool]


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
            _start_server()
        self._threads = threads
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all runs that are going on; their callers get :class:`Interrupted`."""
        self._stopped.set()

    def run(self, job: Job, follow: Follow = lambda _: True) -> Result:
        """Run a job to its end, or take the result that an earlier search left.

        Args:
            job: What to run.
            follow: Told of the result so far whenever there is more; false ends the run.

        Raises:
            ReconError: The run failed; names its log and the log's last lines.
            Interrupted: :meth:`stop` was called.
        """
        finished = read_finished(job.events)
        if finished is not None:
            return finished
        if self._stopped.is_set():
            raise Interrupted
        job.events.parent.mkdir(parents=True, exist_ok=True)
        job.events.unlink(missing_ok=True)
        job = replace(
            job,
            threads=self._threads,
            requested=time.time(),
            folder=Path.cwd(),
            environment=dict(os.environ),
        )
        # No daemon: a script may have children of its own, such as a loader's workers.
        process = self._context.Process(target=run_job, args=(job,), daemon=False)
        process.start()
        try:
            return self._follow(job, process, follow)
        finally:
            _end(process)

    def _follow(self, job: Job, process: Any, follow: Follow) -> Result:
        result, read = Result(), 0
        while True:
            if self._stopped.is_set():
                raise Interrupted
            alive = process.is_alive()
            for event, position in read_events(job.events, read):
                read = position
                result.add(event)
                if not follow(result):
                    result.notes["ended early"] = True
                    return result
            if not alive:
                break
            process.join(_POLL)
        if not result.finished:
            raise _failure(job, result.status, process.exitcode)
        return result


def _start_server() -> None:
    """Start the server that is forked from, deaf to Ctrl-C from its first moment."""
    if threading.current_thread() is not threading.main_thread():
        return  # signals can be set in the main thread only; the first run starts the server
    from multiprocessing import forkserver  # not on every system

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)


def _failure(job: Job, status: int | None, exitcode: int | None) -> ReconError:
    code = status if status is not None else exitcode
    if code is not None and code < 0:
        how = f"was killed by {_signal_name(-code)}"
        if -code == signal.SIGKILL:
            how += " (the system does so when memory runs out)"
    else:
        how = f"failed with exit status {code}"
    said = _last_words(job.log)
    command = shlex.join([job.script, *job.arguments])
    return ReconError(f"The run `{command}` {how}. {said} Its log is {job.log}.")


def _last_words(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    if errors:
        return f"It said: {_ERROR.sub('', errors[-1])}"
    if not lines:
        return "It said nothing."
    return f"Its last lines: {' | '.join(lines[-_LAST_LINES:])} ."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: Any) -> None:
    """End a run, and whatever it has started, if it is still going on."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if process.is_alive():
            _signal_group(process, number)
            process.join(_PATIENCE)
    process.join()
    process.close()


def _signal_group(process: Any, number: int) -> None:
    try:
        if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
            return
    except ProcessLookupError:
        return
    # It has not come so far as to have a group of its own.
    if number == signal.SIGTERM:
        process.terminate()
    else:
        process.kill()
