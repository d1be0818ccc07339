"""Run a LibMTL script, unmodified, in this process, with the plugin registered."""

from __future__ import annotations

from typing import Any

from libmtl_recon.launcher.running import run, run_module, run_script
from libmtl_recon.launcher.target import Target, find_script

__all__ = ["Target", "find_script", "run", "run_module", "run_script"]


def __getattr__(name: str) -> Any:
    from libmtl_recon._deprecated import old_name

    return old_name(__name__, name)
