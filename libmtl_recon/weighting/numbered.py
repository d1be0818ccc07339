"""Where the logs of several models of one process go: FILE, FILE-2, FILE-3 and so on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

# What this process has written; everything else is another run's.
_written: set[Path] = set()


def is_ours(path: Path) -> bool:
    """Whether a log of this name was begun by this process."""
    return path.resolve() in _written


def note_ours(path: Path) -> None:
    """Remember that a log was begun."""
    _written.add(path.resolve())


def names_for(path: Path, ending: str = "") -> Iterator[Path]:
    """The names under which a log may be begun: the given one, and with a number from 2 up.

    Args:
        path: The given one.
        ending: What of it stays behind the number.
    """
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name.removesuffix(ending)}-{number}{ending}")
