"""The names that have changed since the last release, from the package."""

from __future__ import annotations

from libmtl_recon._deprecated import MODULES, NAMES


def renamed() -> str:
    """Return a table of the old and the new names."""
    rows = (f"| `{old}` | `{new}` |" for old, new in sorted({**MODULES, **NAMES}.items()))
    return "\n".join(("| 0.1 | 0.2 |", "|---|---|", *rows))
