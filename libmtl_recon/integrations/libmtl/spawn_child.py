"""Run, by its path, in a spawned process: activates the plugin there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("libmtl_recon") is None:
    # Until the process gets the `sys.path` of its parent.
    sys.path.append(str(Path(__file__).parents[3]))

from libmtl_recon.integrations.libmtl import activate

activate()
