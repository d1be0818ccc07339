"""Start runs as child processes, follow them, and read their records."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from libmtl_recon_search.child import Job, run_job
from libmtl_recon_search.guard import PATIENCE
from libmtl_recon_search.ranks import run_on_ranks
from libmtl_recon_search.record import Damaged, read_record
from libmtl_recon_search.recorder import CANNOT_WRITE
from libmtl_recon_search.result import Result, read_events
from libmtl_recon_search.trouble import GOES_ON, MachineError, said_no_room, set_aside

from libmtl_recon import ReconError

_POLL = 0.03  # seconds between checks of a child's events
_LAST_LINES = 6
_LAST_BYTES = 100_000  # of a log, in which the last lines are searched
# The prefix that argparse and this project write before an error message.
_ERROR = re.compile(r"^\S[\w .\-/]*: error: ")
_LOST = 255  # the exit code of a run whose state is not known any more
# Signals that end a process from outside: lack of memory, a cluster, a person.
_FROM_OUTSIDE = {
    -number
    for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")
    if (number := getattr(signal, name, None)) is not None
}
# Environment variables with paths of folders.
_FOLDERS = ("LIBMTL_RECON_CACHE", "LIBMTL_RECON_DATA")

_STARTING = threading.Lock()

Follow = Callable[[Result], bool]


class Interrupted(BaseException):
    """The search was asked to stop during this run."""


class RunError(ReconError):
    """A run failed.

    Attributes:
        reason: The reason, which is equal for runs that fail in the same way.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class RunKilledError(RunError):
    """A run was ended from outside, perhaps without an error of its own."""


class Runner:
    """Runner of jobs in child processes, for several threads at once.

    If the system can fork, children are forked from a server process that has imported PyTorch and
    LibMTL and nothing else, which starts a run in a fraction of a second.

    Args:
        threads: The number of PyTorch's threads in each run.
        timeout: Seconds after which a run is ended and counts as failed.
        say: A function that is called with warnings, from any thread.
        asked_to_stop: A function that returns whether to end the search; called repeatedly.
        ranks: The number of processes that train each run; several are started as torchrun does.
    """

    def __init__(
        self,
        threads: int,
        timeout: float | None = None,
        say: Callable[[str], None] = lambda _: None,
        asked_to_stop: Callable[[], bool] = lambda: False,
        ranks: int = 1,
    ) -> None:
        methods = multiprocessing.get_all_start_methods()
        self.method = "forkserver" if "forkserver" in methods else "spawn"
        self._context: Any = multiprocessing.get_context(self.method)
        if self.method == "forkserver":
            self._context.set_forkserver_preload(["libmtl_recon.integrations.libmtl.preload"])
            _start_server()
        self._threads, self._timeout, self._say = threads, timeout, say
        self._ranks = ranks
        self._asked_to_stop = asked_to_stop
        self._folder = Path.cwd()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all runs in progress; their callers get :class:`Interrupted`."""
        self._stopped.set()

    def run(self, job: Job, follow: Follow = lambda _: True) -> Result:
        """Run a job to its end, or return the result of an earlier search.

        Args:
            job: The job to run. If it is killed from outside, it is run once more.
            follow: A function that is called with each new partial result; false ends the run.

        Raises:
            RunError: The run failed; the message has the path of its log and the log's last lines.
            MachineError: The run could not write.
            Interrupted: :meth:`stop` was called.
        """
        finished = self._finished(job)
        if finished is not None:
            return finished
        try:
            return self._run(job, follow)
        except RunKilledError as error:
            self._say(f"{error} It will be run once more.")
        return self._run(job, follow)

    def busy(self, job: Job) -> bool:
        """Return whether another process is running the job, so that :meth:`run` would wait."""
        return False

    def _stops(self) -> bool:
        return self._stopped.is_set() or self._asked_to_stop()

    def _finished(self, job: Job) -> Result | None:
        try:
            return read_record(job.events, job.search)
        except Damaged as damage:
            aside = set_aside(job.events)
            self._say(
                f"The record of a run, {job.events}, cannot be used: {damage}. It was renamed to "
                f"{aside.name}, and the run is repeated."
            )
            return None

    def _run(self, job: Job, follow: Follow) -> Result:
        if self._stops():
            raise Interrupted
        job.events.parent.mkdir(parents=True, exist_ok=True)
        job.events.unlink(missing_ok=True)
        job = replace(
            job,
            threads=self._threads,
            ranks=self._ranks,
            requested=time.time(),
            folder=self._folder,
            environment=self._environment(),
        )
        # Not a daemon: a script may have child processes, such as a loader's workers.
        target = run_job if job.ranks == 1 else run_on_ranks
        process = self._context.Process(target=target, args=(job,), daemon=False)
        try:
            with _without_main():
                process.start()
        except (ConnectionError, EOFError) as error:
            # The server from which runs are forked has died; the next run starts another.
            reason = "could not be started, because the server that forks runs was killed"
            raise RunKilledError(f"The run `{_command(job)}` {reason}.", reason) from error
        group = process.pid
        try:
            return self._follow(job, process, follow)
        finally:
            _end(process, group)
            shutil.rmtree(job.scratch, ignore_errors=True)

    def _environment(self) -> dict[str, str]:
        """Return the environment variables of a run, with absolute paths."""
        found = dict(os.environ)
        found.pop("LIBMTL_RECON_STORAGE", None)  # that of the search, which may have a password
        for name in _FOLDERS:
            given = found.get(name, "")
            if given and "://" not in given and not given.startswith("~"):
                found[name] = str(self._folder / given)
        return found

    def _follow(self, job: Job, process: Any, follow: Follow) -> Result:
        result, read = Result(), 0
        clock, ending = _Clock(self._timeout), _Clock(PATIENCE)
        while True:
            if self._stops():
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
            if result.status is not None:
                # It has ended, but threads or processes that it left may delay the exit.
                if ending.ran_out():
                    break
            elif clock.ran_out(paused="waiting" in result.notes and "turn" not in result.notes):
                raise _timed_out(job, self._timeout)
            process.join(_POLL)
        if not result.finished:
            raise _failure(job, result.status, process.exitcode)
        return result


class _Clock:
    """A clock that starts with its first check, and stands still while it is paused."""

    def __init__(self, limit: float | None) -> None:
        self._limit, self._spent, self._last = limit, 0.0, math.nan

    def ran_out(self, paused: bool = False) -> bool:
        now = time.monotonic()
        if not paused and not math.isnan(self._last):
            self._spent += now - self._last
        self._last = now
        return self._limit is not None and self._spent > self._limit


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Prevent a child from importing the user's program, which may itself start a search.

    Multiprocessing reads what a child imports from `__main__` when the child is started. A run does
    not need it, and a program without `if __name__ == "__main__"` would start the search again.
    """
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _start_server() -> None:
    """Start the server process from which runs are forked; it ignores the terminal's signals."""
    if threading.current_thread() is not threading.main_thread():
        return  # signals can be set in the main thread only; the first run starts the server
    from multiprocessing import forkserver  # not on every system

    names = [name for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), signal.SIG_IGN) for name in names}
    try:
        forkserver.ensure_running()
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _command(job: Job) -> str:
    return shlex.join([job.script, *job.arguments])


def _timed_out(job: Job, limit: float | None) -> RunError:
    reason = f"was ended after {limit:g} seconds, because of `timeout: {{run: {limit:g}}}`"
    return RunError(
        f"The run `{_command(job)}` {reason}. {_last_words(job.log)} Its log is {job.log}.", reason
    )


def _failure(job: Job, status: int | None, exitcode: int | None) -> ReconError:
    code = status if status is not None else exitcode
    if job.ranks > 1 and exitcode in _FROM_OUTSIDE:
        code = exitcode  # another rank was killed than the one that wrote its status
    said = _last_words(job.log)
    if (status is None and exitcode == CANNOT_WRITE) or (code != 0 and said_no_room(said)):
        return MachineError(
            f"The run `{_command(job)}` could not write, for example because a disk is full. "
            f"{said} Its log is {job.log}. Make room for its files. {GOES_ON}"
        )
    kind = RunError
    if code is not None and code < 0:
        how = f"was killed by {_signal_name(-code)}"
        if code == -signal.SIGKILL:
            how += " (the system does this when memory runs out)"
        kind = RunKilledError if code in _FROM_OUTSIDE else RunError
    elif status is None and exitcode == _LOST:
        how, kind = "was lost, because the server that forks runs was killed", RunKilledError
    else:
        how = f"failed with exit status {code}"
    text = f"The run `{_command(job)}` {how}. {said} Its log is {job.log}."
    return kind(text, f"{how}. {said}")


def _last_words(log: Path) -> str:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LAST_BYTES))
            text = stream.read(_LAST_BYTES).decode("utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    if errors:
        return f"Its error: {_ended(_ERROR.sub('', errors[-1]))}"
    if not lines:
        return "It printed nothing."
    return f"Its last lines: {_ended(' | '.join(lines[-_LAST_LINES:]))}"


def _ended(text: str) -> str:
    """Return a text as the end of a sentence; a path at its end stays apart from the full stop."""
    return text if text.endswith((".", "!", "?")) else f"{text} ."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: Any, group: int) -> None:
    """End a run, and all processes that it has started."""
    if process.is_alive():
        _signal_group(process, signal.SIGTERM)
        # The guard gives the run this time, and then needs a moment itself.
        process.join(PATIENCE + 1)
    if process.is_alive():
        _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.join()
    process.close()
    if hasattr(os, "killpg"):
        _end_group(group)


def _end_group(group: int) -> None:
    """End the remaining processes of a run whose guard was killed or whose end is unknown."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        until = time.monotonic() + PATIENCE + 1
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(_POLL)
        os.killpg(group, signal.SIGKILL)


def _signal_group(process: Any, number: int) -> None:
    try:
        if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
            return
    except ProcessLookupError:
        return
    # It has no process group of its own yet.
    if number == signal.SIGTERM:
        process.terminate()
    else:
        process.kill()
