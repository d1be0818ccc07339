"""The site's own modules, which stand beside the pages."""

from __future__ import annotations

import sys
from pathlib import Path

SITE = Path(__file__).parents[2] / "docs" / "_site"
sys.path.insert(0, str(SITE))
