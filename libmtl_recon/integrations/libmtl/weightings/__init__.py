"""The weightings as LibMTL classes, one per file; LibMTL's Trainer mixes them into its model."""

from __future__ import annotations

# First, whichever class is wanted: LibMTL registers all of them while it is imported, and would
# find the class incomplete whose module had caused that import.
import LibMTL  # noqa: F401
