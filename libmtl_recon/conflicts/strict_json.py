"""A strict reader of JSON, which refuses errors that Python's reader accepts silently."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

_DIGITS = 1000  # Python refuses some thousand digits with a message that is not meant for users


def parse(text: str) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: It is not JSON, has a key twice in an object, has a number of too many digits,
            or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"it has {twice[:100]!r} twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"it has a number of {len(digits):,} digits")
    return int(digits)
