"""Conflict profiles that come with the package, one JSON file each, named NETWORK-DATASET."""

from __future__ import annotations

import functools
from importlib.resources import files

from libmtl_recon.conflicts.profile import ConflictProfile

_ENDING = ".json"


@functools.cache
def built_in_profiles() -> tuple[tuple[str, ConflictProfile], ...]:
    """Return the name and the profile of each, in the order of the names."""
    found = sorted(file.name for file in files(__name__).iterdir() if file.name.endswith(_ENDING))
    return tuple(
        (name.removesuffix(_ENDING), ConflictProfile.from_json(_text(name), name)) for name in found
    )


def _text(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")
