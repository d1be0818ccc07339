"""Makes the site's modules importable, which are in the folder of the pages."""

from __future__ import annotations

import sys
from pathlib import Path

SITE = Path(__file__).parents[2] / "docs" / "_site"
sys.path.insert(0, str(SITE))
