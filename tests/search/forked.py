"""Searches and runs that are forked from the test's own process, which has imported everything.

A search of a user's starts a server from which its runs are forked; importing PyTorch there takes
seconds. Forked from here, a search and its runs start at once.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from libmtl_recon_search.config import Config
from libmtl_recon_search.process import Runner
from libmtl_recon_search.report import Report
from libmtl_recon_search.search_result import run_search

import libmtl_recon.integrations.libmtl.preload

assert libmtl_recon.integrations.libmtl.preload
can_fork = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks with threads")


def _as_from_a_server(target: Callable[..., None], *args: Any) -> None:
    faulthandler.disable()
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, closefd=False)
    target(*args)


class _Context:
    """Of multiprocessing, for runs whose output is no longer pytest's."""

    def Process(self, target: Any, args: Any, daemon: bool) -> Any:  # noqa: N802  # its name there
        fork = multiprocessing.get_context("fork")
        return fork.Process(target=_as_from_a_server, args=(target, *args), daemon=daemon)


class Forking(Runner):
    """A runner that forks runs from this process."""

    def __init__(self, *given: Any, **more: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("libmtl_recon_search.process._start_server", lambda: None)
            super().__init__(*given, **more)
        self._context = _Context()


def in_a_fork(work: Callable[[], None], log: Path) -> int:
    """Start work in a fork that leads a process group; its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        with log.open("a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w")
            sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1)
            work()
            sys.stdout.flush()
            status = 0
    except BaseException as error:  # noqa: BLE001  # nothing of it may go on in pytest's copy
        with log.open("a") as stream:
            stream.write(f"{type(error).__name__}: {error}\n")
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        os._exit(status)


def run_search_forking(
    config: Config, out: Path, asked_to_stop: Callable[[], bool] = lambda: False
) -> Report:
    """Run a search whose runs are forked from this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("libmtl_recon_search.run.Runner", Forking)
        return run_search(config, out, asked_to_stop)


def family_of(number: int) -> list[int]:
    """All living descendants of a process."""
    found, known = [], [number]
    while known:
        parent = known.pop()
        # Each thread has children of its own.
        for listed in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                children = list(map(int, listed.read_text().split()))
                found += children
                known += children
    return found


def alive(number: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def until(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it never came about")
