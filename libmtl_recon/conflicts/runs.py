"""Which scoring runs a profile holds the steps of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def runs_of(provenance: Mapping[str, Any]) -> list[str]:
    """The runs' names: one of a run's own profile, several of a sum; one may come twice.

    Args:
        provenance: The profile's. One that was kept before runs had names has none.
    """
    found = [provenance["run"]] if isinstance(provenance.get("run"), str) else []
    added = provenance.get("added")
    for origin in added if isinstance(added, list) else []:
        found += runs_of(origin) if isinstance(origin, Mapping) else []
    return found
