"""The folder of each problem's data set."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

VARIABLE = "LIBMTL_RECON_DATA"


def data_root() -> Path:
    """Return the folder in LIBMTL_RECON_DATA, or ``data`` in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else user_cache_path("libmtl-recon") / "data"
