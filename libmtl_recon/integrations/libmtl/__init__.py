"""Everything that depends on LibMTL: its names, its two versions, its defects."""

from __future__ import annotations

import sys
from importlib import import_module


def activate() -> None:
    """Register this package's weightings, architectures and flags with LibMTL.

    If LibMTL is loaded, they are registered now, otherwise when LibMTL is imported; this call
    loads neither LibMTL nor torch. The registration also applies to the processes that this one
    spawns. Calling the function again changes nothing.

    ``import libmtl_recon`` does the same, except for processes that are spawned before LibMTL is
    loaded in this one.
    """
    from libmtl_recon.integrations.libmtl.spawn import tell_spawned_processes

    tell_spawned_processes()
    register_when_imported()


def register_when_imported() -> None:
    """Register with LibMTL now if it is loaded, otherwise when it is imported."""
    from libmtl_recon.integrations.libmtl.importing import arm, disarm

    module = sys.modules.get("LibMTL")
    if module is None:
        arm()
        return
    if getattr(module.__spec__, "_initializing", False):
        # Another thread is importing it. This waits for it, and retries if that import fails.
        arm()
        module = import_module("LibMTL")
        disarm()
    from libmtl_recon.integrations.libmtl.registry import register

    register(module)
