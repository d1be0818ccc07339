"""The scoring runs that a profile contains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def runs_of(provenance: Mapping[str, Any]) -> list[str]:
    """Return the names of the runs: one for the profile of a run, several for a sum.

    Args:
        provenance: The profile's provenance. That of old profiles contains no names of runs.
    """
    found = [provenance["run"]] if isinstance(provenance.get("run"), str) else []
    added = provenance.get("added")
    for origin in added if isinstance(added, list) else []:
        found += runs_of(origin) if isinstance(origin, Mapping) else []
    return found
