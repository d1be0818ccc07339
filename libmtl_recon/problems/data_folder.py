"""The folder of each problem's data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from libmtl_recon.errors import ReconError

VARIABLE = "LIBMTL_RECON_DATA"


def data_root() -> Path:
    """Return the folder in LIBMTL_RECON_DATA, or ``data`` in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    return Path(given) if given else user_cache_path("libmtl-recon") / "data"


@contextmanager
def looked_through(folder: Path) -> Iterator[None]:
    """Say that a data set's folder cannot be looked through, where the system refuses it.

    Args:
        folder: The folder, which the ``with`` block looks through.

    Raises:
        ReconError: The block raised an OSError: a folder may not be read, or its name is too long.
    """
    try:
        yield
    except OSError as error:
        raise ReconError(
            f"The data set in {folder} cannot be looked through ({error}). Name a folder that you "
            f"may read in the environment variable {VARIABLE}."
        ) from error
