"""A limit of time for what a fuzzer reads."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_limit(seconds: int, what: str) -> Iterator[None]:
    """Fail in the main thread if the ``with`` block takes longer; on systems with alarms only."""

    def end(*_: object) -> None:
        raise AssertionError(f"still not read after {seconds} s: {what}")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
