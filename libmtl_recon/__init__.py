"""GradOPS, RotoGrad and Recon for LibMTL: importing this package is all that a script has to do.

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
    from libmtl_recon.architecture.extract import extract_task
    from libmtl_recon.architecture.outputs import by_task
    from libmtl_recon.architecture.split import only_task, split_layers
    from libmtl_recon.conflict.cache import ProfileCache
    from libmtl_recon.conflict.plot import draw_profile
    from libmtl_recon.conflict.profile import ConflictProfile
    from libmtl_recon.labels.masked import Masked
    from libmtl_recon.launcher import StopRun, find_script, run_module, run_script
    from libmtl_recon.plugin.arguments import known_weightings
    from libmtl_recon.plugin.observing import Measurement, Observer
    from libmtl_recon.plugin.scoring import ScoringObserver
    from libmtl_recon.plugin.single_task import SingleTask
    from libmtl_recon.weighting.gradops import gradops_weights
    from libmtl_recon.weighting.rotation import fold_rotation
    from libmtl_recon.weighting.rotograd import RotoGrad

__all__ = [
    "Bundle",
    "ConflictProfile",
    "Masked",
    "Measurement",
    "Observer",
    "ProfileCache",
    "ReconError",
    "RotoGrad",
    "ScoringObserver",
    "SingleTask",
    "StopRun",
    "UsageError",
    "__version__",
    "activate",
    "by_task",
    "draw_profile",
    "extract_task",
    "find_script",
    "fold_rotation",
    "gradops_weights",
    "known_weightings",
    "only_task",
    "run_module",
    "run_script",
    "split_layers",
]

_HOMES = {
    "Bundle": "architecture.bundle",
    "ConflictProfile": "conflict.profile",
    "Masked": "labels.masked",
    "Measurement": "plugin.observing",
    "Observer": "plugin.observing",
    "ProfileCache": "conflict.cache",
    "RotoGrad": "weighting.rotograd",
    "ScoringObserver": "plugin.scoring",
    "SingleTask": "plugin.single_task",
    "StopRun": "launcher",
    "by_task": "architecture.outputs",
    "draw_profile": "conflict.plot",
    "extract_task": "architecture.extract",
    "find_script": "launcher",
    "fold_rotation": "weighting.rotation",
    "gradops_weights": "weighting.gradops",
    "known_weightings": "plugin.arguments",
    "only_task": "architecture.split",
    "run_module": "launcher",
    "run_script": "launcher",
    "split_layers": "architecture.split",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


activate()
