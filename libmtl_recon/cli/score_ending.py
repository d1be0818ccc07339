"""Handle signals that end ``libmtl-recon score``, after saving what was scored."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# A cluster ends a job with SIGTERM; SIGHUP comes when a terminal is closed.
_LIKE_CTRL_C = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def ended_like_interrupted(own_process: bool) -> Iterator[None]:
    """Make SIGTERM and SIGHUP end a run as Ctrl-C does.

    Args:
        own_process: Whether the process belongs to the command; if not, nothing is done.
    """
    with _handled(_LIKE_CTRL_C if own_process else (), signal.default_int_handler):
        yield


@contextmanager
def held_back() -> Iterator[list[int]]:
    """Record a first signal inside the ``with`` block without raising; a second one raises.

    Yields:
        The signals that were received.
    """
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            signal.default_int_handler(number, frame)

    with _handled((signal.SIGINT, *_LIKE_CTRL_C), note):
        yield came


@contextmanager
def _handled(numbers: Sequence[int], handler: Callable[[int, Any], Any]) -> Iterator[None]:
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in numbers}
    # `nohup` makes a process ignore SIGHUP; a handler not set from Python cannot be restored.
    before = {n: known for n, known in before.items() if known not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)
