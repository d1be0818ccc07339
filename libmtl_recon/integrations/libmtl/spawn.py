"""Activate the plugin in processes that a script spawns.

The ``spawn`` and ``forkserver`` methods of :mod:`multiprocessing` start a bare interpreter that
imports the script again, and LibMTL with it. Under the launcher the script does not import this
package, and one that imports it inside its ``if __name__ == "__main__":`` does not do so there; so
something that the new process reads before it imports the script must do it. It is set up when
LibMTL is loaded, or by :func:`libmtl_recon.activate`, which the launcher calls; ``import
libmtl_recon`` alone leaves :mod:`multiprocessing` unchanged.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OURS = "libmtl_recon"  # a key that multiprocessing ignores


class Activation:
    """Activates the plugin when unpickled in a new process, and leaves nothing behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        # By its path: a script may have added this package to a `sys.path` that the process does
        # not have yet.
        return runpy.run_path, (str(Path(__file__).with_name("spawn_child.py")),)


def tell_spawned_processes() -> None:
    """Activate the plugin in each process that this one spawns from now on.

    Wraps, once, multiprocessing's function that describes the main module to a new process.
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
    """Make a fork server import this package where it would import the script.

    In some versions of Python it imports the script before any process gets data from its parent.
    """
    import multiprocessing

    multiprocessing.set_forkserver_preload(["libmtl_recon"])
