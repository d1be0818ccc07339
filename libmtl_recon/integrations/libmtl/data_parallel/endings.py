"""The end of a training on several ranks, and the rank that reports the reason.

A rank that fails leaves a note and exits, which ends the others: they lose the connection, or
torchrun stops them. An error that all ranks have is reported once, by rank 0; an error of one rank
is reported by that rank.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from libmtl_recon.integrations.libmtl.data_parallel import group
from libmtl_recon.integrations.libmtl.data_parallel.environment import world
from libmtl_recon.output import warn

# Seconds that a rank waits for the note of another before it reports its own error.
_WAIT, _LOOK = 3.0, 0.05
# The same before the ranks have met, when there are no notes.
_BEFORE_MEETING = 15.0
_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"  # a variable that other launchers do not set
_KEY = "libmtl_recon/ended/"
_has_waited = False
# An attribute of the exception, so that the decision is made once.
_DECIDED = "_libmtl_recon_says_why"
LOST = (
    "The connection to another rank was lost: its process has ended, perhaps killed by the system "
    "(for example when memory runs out) or by a person. Its messages, if any, are shown above."
)


class EndedElsewhere(BaseException):
    """Another rank has ended the run and has reported why."""


def leave_note(text: str) -> None:
    """Tell the other ranks, if there are any, that this one has failed."""
    store, found = group.store(), world()
    if store is None or found is None:
        return
    try:
        store.set(f"{_KEY}{found.rank}", text)
    except Exception:  # noqa: BLE001  # the host of the notes has ended, which counts as a note
        return


def says_why(error: BaseException) -> bool:
    """Return whether this rank reports its error; otherwise another rank reports it.

    Args:
        error: The exception that this rank has failed with.
    """
    decided = vars(error)
    if _DECIDED not in decided:
        decided[_DECIDED] = _says_why(error)
    return bool(decided[_DECIDED])


def say_uncaught() -> None:
    """Make uncaught errors of a script outside the launcher be reported by one rank."""
    if world() is None:
        return
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not says_why(error):
            return
        if is_lost_connection(error):
            warn(f"libmtl-recon: error: {LOST}")
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def _says_why(error: BaseException) -> bool:
    found = world()
    if found is None:
        return True
    if isinstance(error, EndedElsewhere):
        return False
    lost = is_lost_connection(error)
    if not lost:
        leave_note(f"{type(error).__name__}: {error}")
    if group.store() is None:
        # Before they meet, all ranks do the same: rank 0 reports, and torchrun then ends the
        # others. A rank that torchrun has not ended has failed alone.
        if found.rank == 0 or isinstance(error, KeyboardInterrupt):
            return found.rank == 0
        return let_first_speak()
    if found.rank == 0 and not lost:
        if _BY_TORCHRUN not in os.environ:
            # This rank hosts the notes: the others, if they fail too, must find its own.
            _noted(range(1, found.size), all)
        return True
    others = range(found.size) if lost else (0,)
    return not _noted([rank for rank in others if rank != found.rank], any)


def end_along(status: int) -> NoReturn:
    """End a rank other than rank 0 silently, with the status that rank 0 ends with and reports.

    Raises:
        SystemExit: Always; if torchrun ends the ranks, after rank 0 has had time to report.
    """
    if status:
        let_first_speak()
    sys.exit(status)


def before_leaving() -> None:
    """Wait where this rank ends by a status alone: rank 0 may have to report the reason."""
    found = world()
    if found is not None and found.rank != 0 and group.store() is None:
        let_first_speak()


def let_first_speak() -> bool:
    """Wait, once, for torchrun to end this rank as soon as rank 0 has ended.

    Otherwise torchrun, if this rank is faster, would end rank 0 before it has reported why.

    Returns:
        Whether torchrun ends the ranks.
    """
    global _has_waited
    if _BY_TORCHRUN not in os.environ:
        return False
    if not _has_waited:
        _has_waited = True
        time.sleep(_BEFORE_MEETING)
    return True


def is_lost_connection(error: BaseException) -> bool:
    """Return whether an exception, or one that led to it, is due to a rank that has ended."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError):
            return True
        if isinstance(seen, RuntimeError) and "gloo" in str(seen).lower():
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _noted(ranks: Sequence[int], enough: Callable[[Iterable[bool]], bool]) -> bool:
    """Wait for notes of these ranks, and return whether any or all of them left one."""
    until = time.monotonic() + _WAIT
    while True:
        if enough(_has(group.store(), f"{_KEY}{rank}") for rank in ranks):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK)


def _has(store: Any, key: str) -> bool:
    try:
        return bool(store.check([key]))
    except Exception:  # noqa: BLE001  # see above
        return True
