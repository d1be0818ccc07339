"""Preparation of text from outside for a terminal and for messages; suggestions for typos."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence

_CUT = " […] "
_SHOWN = 8  # names of layers; a network has hundreds


def printable(text: str, keep: str = "") -> str:
    r"""Return a text in which characters that a terminal would not show are escaped.

    Control characters, marks that change the direction of writing, and lone surrogates become
    ``\x1b``, ``\u202e``, ``\udcff``.

    Args:
        text: Any text.
        keep: Characters that are not escaped, e.g. line breaks.
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
    """Return a text, without its middle if it is longer than this number of characters."""
    if len(text) <= longest:
        return text
    tail = (longest - len(_CUT)) // 3
    return text[: longest - len(_CUT) - tail] + _CUT + text[len(text) - tail :]


def shorten(names: Sequence[str]) -> str:
    """The first few names, and the number of further ones."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``"Did you mean NAME? "``, or an empty text if no known name is similar.

    Args:
        name: The given name; upper and lower case, ``-`` and ``_`` are treated as equal.
        known: The existing names.
    """
    close = nearest(name, known)
    return f"Did you mean {close[0]}? " if close else ""


def nearest(name: object, known: Iterable[str], most: int = 1, likeness: float = 0.55) -> list[str]:
    """Return the known names that are most similar to a name, the most similar first.

    Args:
        name: The given name; upper and lower case, ``-`` and ``_`` are treated as equal.
        known: The existing names.
        most: The maximum number of names to return.
        likeness: The least similarity, from 0 (any name) to 1 (only the same name).
    """
    by_plain = {_plain(one): one for one in known}
    given = _plain(bounded(str(name), 100))
    close = difflib.get_close_matches(given, by_plain, n=most, cutoff=likeness)
    return [by_plain[one] for one in close]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").lstrip("-")


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
