"""A guard that ends all processes of a run together with the run or the search.

A script may leave processes behind: a data loader's workers, servers, programs that it started in
a new session. The guard is a process between the search and the run: it waits for the run, then
ends all processes that the run has started, and exits with the run's exit status.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 5.0  # seconds that a run has to end when asked to
# Of Linux's prctl(2).
_DEATH_SIGNAL, _SUBREAPER = 1, 36
_LOOK = 0.1  # seconds between checks, if the system does not notify of the end of a process


def guarded() -> bool:
    """Continue in a new process; the present one becomes its guard and never returns.

    The present process must lead a process group. On Linux no descendant escapes, since those
    whose parents have died become the guard's children; elsewhere, those that stay in the group are
    ended.

    Returns:
        Whether there is a guard, which needs a system that can fork.
    """
    if not hasattr(os, "fork"):
        return False
    told: list[float] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(time.monotonic()))
    _prctl(_SUBREAPER, 1)
    guard = os.getpid()
    run = os.fork()
    if run != 0:
        leave(_watch(run, told))
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)  # it died before this process could ask to be notified
    return True


def _watch(run: int, told: list[float]) -> int:
    """Wait for the run, end its processes, and return the run's exit code in Python's form."""
    search: Any = multiprocessing.parent_process()
    ends: list[Any] = [search.sentinel]
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            ends.append(os.pidfd_open(run))
    code, left = -signal.SIGKILL, [run]
    while search.is_alive() and not (told and time.monotonic() > told[0] + PATIENCE):
        pid, status = os.waitpid(run, os.WNOHANG)
        if pid:
            code, left = os.waitstatus_to_exitcode(status), []
            break
        wait(ends, timeout=1.0 if len(ends) == 2 else _LOOK)  # a SIGTERM wakes nobody
    _end_children(left)
    if not search.is_alive():
        os.killpg(0, signal.SIGKILL)  # where orphans do not become our children
    return code


def _end_children(known: list[int]) -> None:
    """Kill all descendants, which become our children when their parents have died.

    Args:
        known: The known children, used if the system does not list them.
    """
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    while True:
        with contextlib.suppress(OSError):  # only Linux has it
            known = [int(pid) for pid in listed.read_text(encoding="ascii").split()]
        for pid in known:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def leave(code: int) -> NoReturn:
    """Exit as another process did: with its exit code, or by its signal."""
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the run's own core is enough
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
        time.sleep(PATIENCE)
    os._exit(abs(code))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
