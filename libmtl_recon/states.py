"""The check of a state that ``load_state_dict`` is given, before anything is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from libmtl_recon.errors import UsageError


def checked_state(
    owner: str, state: Any, holds: Mapping[str, Callable[[Any], bool]]
) -> Mapping[str, Any]:
    """Check the entries of a state, and return it.

    Args:
        owner: The class whose ``state_dict`` returned it.
        state: Should be a dict; further entries are ignored.
        holds: For each key, a function that tells whether the entry is valid.

    Raises:
        UsageError: It is not a dict, or an entry is missing or invalid.
    """
    rule = f"must be what state_dict() of a {owner} returned"
    rule += f", with {', '.join(map(repr, holds))}" if holds else ""
    way_out = f"Pass the entry of the checkpoint in which the {owner} was saved, unchanged."
    if not isinstance(state, Mapping):
        raise UsageError("state", rule, type(state).__name__, way_out)
    missing = [key for key in holds if key not in state]
    if missing:
        raise UsageError("state", rule, f"no {', '.join(map(repr, missing))}", way_out)
    for key, holds_for in holds.items():
        if not holds_for(state[key]):
            raise UsageError(f"state[{key!r}]", f"must be that of a {owner}", state[key], way_out)
    return state


def is_whole(value: Any, least: int = 0) -> bool:
    """Return whether a value is an integer of at least this."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
