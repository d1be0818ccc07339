"""GradOPS and Recon for LibMTL: importing this package is all that a script has to do.

The import is light: it arms LibMTL (at once if LibMTL is loaded already, else at the moment
when it is) and loads nothing else. The public names below load their modules on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from libmtl_recon._version import __version__
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.plugin import activate

if TYPE_CHECKING:
    from libmtl_recon.architecture.bundle import Bundle
    from libmtl_recon.architecture.split import only_task, split_layers
    from libmtl_recon.conflict.cache import ProfileCache
    from libmtl_recon.conflict.profile import ConflictProfile
    from libmtl_recon.launcher import run_script
    from libmtl_recon.weighting.gradops import gradops_weights

__all__ = [
    "Bundle",
    "ConflictProfile",
    "ProfileCache",
    "ReconError",
    "UsageError",
    "__version__",
    "activate",
    "gradops_weights",
    "only_task",
    "run_script",
    "split_layers",
]

_HOMES = {
    "Bundle": "libmtl_recon.architecture.bundle",
    "ConflictProfile": "libmtl_recon.conflict.profile",
    "ProfileCache": "libmtl_recon.conflict.cache",
    "gradops_weights": "libmtl_recon.weighting.gradops",
    "only_task": "libmtl_recon.architecture.split",
    "run_script": "libmtl_recon.launcher",
    "split_layers": "libmtl_recon.architecture.split",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


activate()
