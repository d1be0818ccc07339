"""Stop commands that train in child processes, by signals."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def told_to_stop(own_process: bool) -> Iterator[list[int]]:
    """Make SIGTERM and a closed terminal stop a command as Ctrl-C does; yield the signals.

    Runs are then ended, which may take some seconds. A second signal ends this process
    immediately; finished runs are kept, and the runs' guards end the others.
    """
    signals: list[int] = []
    if not own_process or threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def told(number: int, frame: object) -> None:
        signals.append(number)
        for known in before:
            signal.signal(known, end)
        _write(b"\nlibmtl-recon: ending the runs; a second Ctrl-C ends them immediately\n")

    def end(number: int, frame: object) -> None:
        if sys.stderr.isatty():
            _write(b"\x1b[?25h")  # the cursor, which the bar has hidden
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # not every system has the last
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # A signal that is ignored, as by nohup, stays ignored.
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, told)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(text: bytes) -> None:
    # Not with Python's streams, since a signal may come in the middle of a write to them.
    with suppress(OSError):
        os.write(2, text)
