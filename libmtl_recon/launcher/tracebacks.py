"""Remove the frames in which this package only passes calls on from a script's tracebacks."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

# Prefixes of file names. Code in these folders only passes calls on, between the frames of a script
# and those of LibMTL; but the built-in problems are scripts.
_OURS = os.path.join(Path(__file__).parents[1], "")  # noqa: PTH118  # with a separator at its end
_LAUNCHER = os.path.join(_OURS, "launcher", "")  # noqa: PTH118
_PROBLEMS = os.path.join(_OURS, "problems", "")  # noqa: PTH118


def strip_our_frames(error: BaseException) -> None:
    """Remove the frames that only pass calls on from an exception and from those that led to it."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        found.__traceback__ = _without_our_frames(found.__traceback__)
        waiting += [found.__cause__, found.__context__]
        waiting += getattr(found, "exceptions", ())  # those of an exception group


def _without_our_frames(frames: TracebackType | None) -> TracebackType | None:
    every: list[TracebackType] = []
    while frames is not None:
        every.append(frames)
        frames = frames.tb_next
    # An error raised in our own code is our fault and must be shown, with all that led to it.
    fault = bool(every) and _is_ours(every[-1])
    kept: TracebackType | None = None
    for frame in reversed(every):
        if not _file(frame).startswith(_LAUNCHER) and (fault or not _is_ours(frame)):
            kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def _is_ours(frame: TracebackType) -> bool:
    file = _file(frame)
    return file.startswith(_OURS) and not file.startswith((_LAUNCHER, _PROBLEMS))


def _file(frame: TracebackType) -> str:
    return frame.tb_frame.f_code.co_filename
