"""Text from outside, made fit for a terminal and for one message; and what a typo meant."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

_CUT = " […] "
_SHOWN = 8  # names of layers; a network has hundreds


def printable(text: str, keep: str = "") -> str:
    r"""A text with whatever a terminal would obey instead of show written as an escape.

    Control characters, marks that turn the direction of writing, and lone surrogates become
    ``\x1b``, ``\u202e``, ``\udcff``.

    Args:
        text: Any.
        keep: Characters to leave as they are, e.g. line breaks.
    """
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable() or one in keep or unicodedata.category(one) == "Zs"
        else _escape(one)
        for one in text
    )


def bounded(text: str, longest: int) -> str:
    """A text of at most so many characters, without its middle if it has more."""
    if len(text) <= longest:
        return text
    tail = (longest - len(_CUT)) // 3
    return text[: longest - len(_CUT) - tail] + _CUT + text[len(text) - tail :]


def shorten(names: Sequence[str]) -> str:
    """The first few names, and the number of further ones."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``"Did you mean NAME? "``, or nothing where no known name is near.

    Args:
        name: What was given; upper and lower case, ``-`` and ``_`` are taken as alike.
        known: The names that there are.
    """
    close = nearest(name, known)
    return f"Did you mean {close[0]}? " if close else ""


def nearest(name: object, known: Iterable[str], most: int = 1, likeness: float = 0.55) -> list[str]:
    """The known names that are most like one, the most alike first.

    Args:
        name: What was given; upper and lower case, ``-`` and ``_`` are taken as alike.
        known: The names that there are.
        most: How many to return at most.
        likeness: From 0, which any name has, to 1, which only the same name has.
    """
    by_plain = {_plain(one): one for one in known}
    given = _plain(bounded(str(name), 100))
    close = difflib.get_close_matches(given, by_plain, n=most, cutoff=likeness)
    return [by_plain[one] for one in close]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").lstrip("-")


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
