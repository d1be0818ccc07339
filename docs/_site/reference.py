"""The generated parts of the reference, by the name in ``<!-- generated: NAME ... -->``."""

from __future__ import annotations

from collections.abc import Callable

from flag_pages import command, problem_flags, script_flags
from key_page import search_keys
from name_pages import names, names_index
from renamed import renamed

GENERATED: dict[str, Callable[..., str]] = {
    "command": command,
    "names": names,
    "names_index": names_index,
    "problem_flags": problem_flags,
    "renamed": renamed,
    "script_flags": script_flags,
    "search_keys": search_keys,
}
