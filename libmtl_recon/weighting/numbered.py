"""The names of the logs of several models of one process: FILE, FILE-2, FILE-3 and so on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

# The files that this process has written; all others belong to other runs.
_written: set[Path] = set()


def is_ours(path: Path) -> bool:
    """Return whether this process has begun a log of this name."""
    return path.resolve() in _written


def note_ours(path: Path) -> None:
    """Record that this process has begun a log."""
    _written.add(path.resolve())


def names_for(path: Path, ending: str = "") -> Iterator[Path]:
    """Iterate over the possible names of a log: the given one, then with a number from 2 up.

    Args:
        path: The given name.
        ending: The end of the name, which stays behind the number.
    """
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name.removesuffix(ending)}-{number}{ending}")
