"""All that knows LibMTL: its names, its two versions, its defects."""

from __future__ import annotations

import sys


def activate() -> None:
    """Make LibMTL accept our weightings, architectures and flags, however it is imported.

    If LibMTL is loaded it is registered with now, else at the moment when it is imported; this
    call itself loads neither LibMTL nor torch. Calling it again changes nothing.
    """
    from libmtl_recon.plugin.importing import arm

    module = sys.modules.get("LibMTL")
    if module is None:
        arm()
    else:
        from libmtl_recon.plugin.registry import register

        register(module)
