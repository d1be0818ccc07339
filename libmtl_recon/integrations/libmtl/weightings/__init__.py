"""The weightings as LibMTL classes, one a file; LibMTL's Trainer mixes them into its model."""

from __future__ import annotations

# First, whichever of the classes is wanted: LibMTL registers all of them while it is imported,
# and would find the class half made whose module had caused that import.
import LibMTL  # noqa: F401
