"""Processes that a script spawns know our names, too.

The ``spawn`` and ``forkserver`` methods of :mod:`multiprocessing` start a bare interpreter that
imports the script again, LibMTL with it. Under the launcher the script does not import us, so
something that the new process reads before it imports the script has to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from libmtl_recon.plugin import activate

_OURS = "libmtl_recon"  # a key that multiprocessing does not look at


class Activation:
    """Unpickled in a new process, it activates the plugin there and leaves nothing behind."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return activate, ()


@contextmanager
def known_to_spawned_processes() -> Iterator[None]:
    """Activate the plugin in each process that is spawned inside the ``with`` block.

    What multiprocessing tells a new process about the main module is wrapped for so long.
    """
    from multiprocessing import spawn

    names = vars(spawn)
    tell = names["get_preparation_data"]

    def get_preparation_data(name: str) -> dict[str, Any]:
        return {**tell(name), _OURS: Activation()}

    names["get_preparation_data"] = get_preparation_data
    try:
        yield
    finally:
        names["get_preparation_data"] = tell
