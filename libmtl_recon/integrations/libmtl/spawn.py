"""Processes that a script spawns know our names, too.

The ``spawn`` and ``forkserver`` methods of :mod:`multiprocessing` start a bare interpreter that
imports the script again, LibMTL with it. Under the launcher the script does not import us, and
one that imports us inside its ``if __name__ == "__main__":`` does not do so there; so something
that the new process reads before it imports the script has to. It is given that where LibMTL is
loaded, or by :func:`libmtl_recon.activate`, as the launcher calls it; ``import libmtl_recon`` alone
leaves :mod:`multiprocessing` alone.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OURS = "libmtl_recon"  # a key that multiprocessing does not look at


class Activation:
    """Unpickled in a new process, it activates the plugin there and leaves nothing behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        # By its path: a script may have put us on a `sys.path` that the process does not have yet.
        return runpy.run_path, (str(Path(__file__).with_name("spawn_child.py")),)


def tell_spawned_processes() -> None:
    """Activate the plugin in each process that this one spawns from now on.

    What multiprocessing tells a new process about the main module is wrapped, once.
    """
    from multiprocessing import spawn

    names = vars(spawn)
    tell = names["get_preparation_data"]
    if getattr(tell, "__module__", None) == __name__:
        return

    def get_preparation_data(name: str) -> dict[str, Any]:
        return {**tell(name), _OURS: Activation()}

    names["get_preparation_data"] = get_preparation_data


def start_forkserver_without_main() -> None:
    """Have a fork server import us where it would import the script.

    It does that, in some versions of Python, before any process is told anything.
    """
    import multiprocessing

    multiprocessing.set_forkserver_preload(["libmtl_recon"])
