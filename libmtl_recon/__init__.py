"""GradOPS, RotoGrad and Recon for LibMTL: importing this package is all that a script has to do.

The import is light: it arms LibMTL (at once if LibMTL is loaded already, else at the moment
when it is) and loads nothing else. The public names below load their modules on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from libmtl_recon._version import __version__
from libmtl_recon.errors import MissingPackageError, ReconError, UsageError
from libmtl_recon.integrations.libmtl import activate, register_when_imported

if TYPE_CHECKING:
    from libmtl_recon.conflicts.layers import Layer
    from libmtl_recon.conflicts.plot import draw_profile
    from libmtl_recon.conflicts.probe import ConflictProbe
    from libmtl_recon.conflicts.profile import ConflictProfile
    from libmtl_recon.integrations.libmtl.architectures.extract import extract_task
    from libmtl_recon.integrations.libmtl.arguments import known_weightings
    from libmtl_recon.integrations.libmtl.hooks import Measurement, StopRun, TrainerHook
    from libmtl_recon.integrations.libmtl.missing_labels.masked import Masked
    from libmtl_recon.integrations.libmtl.scoring import ScoringHook
    from libmtl_recon.integrations.libmtl.script_flags import ScriptFlags, script_flags
    from libmtl_recon.integrations.libmtl.single_task import SingleTask
    from libmtl_recon.integrations.libmtl.sizes import summary
    from libmtl_recon.integrations.libmtl.splits import split_from
    from libmtl_recon.integrations.libmtl.step import present_tasks
    from libmtl_recon.launcher import find_script, run_module, run_script
    from libmtl_recon.profiles.cache import ProfileCache
    from libmtl_recon.profiles.selection import select_layers
    from libmtl_recon.splitting.outputs import by_task
    from libmtl_recon.splitting.spec import SplitSpec
    from libmtl_recon.splitting.split import only_task, split_layers
    from libmtl_recon.splitting.task_tensor import TaskTensor
    from libmtl_recon.weighting.gradops import gradops_weights
    from libmtl_recon.weighting.rotation import fold_rotation
    from libmtl_recon.weighting.rotograd import RotoGrad
    from libmtl_recon.weighting.step import StepResult, step

__all__ = [
    "ConflictProbe",
    "ConflictProfile",
    "Layer",
    "Masked",
    "Measurement",
    "MissingPackageError",
    "ProfileCache",
    "ReconError",
    "RotoGrad",
    "ScoringHook",
    "ScriptFlags",
    "SingleTask",
    "SplitSpec",
    "StepResult",
    "StopRun",
    "TaskTensor",
    "TrainerHook",
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
    "present_tasks",
    "run_module",
    "run_script",
    "script_flags",
    "select_layers",
    "split_from",
    "split_layers",
    "step",
    "summary",
]

_HOMES = {
    "TaskTensor": "splitting.task_tensor",
    "ConflictProbe": "conflicts.probe",
    "ConflictProfile": "conflicts.profile",
    "Layer": "conflicts.layers",
    "Masked": "integrations.libmtl.missing_labels.masked",
    "Measurement": "integrations.libmtl.hooks",
    "TrainerHook": "integrations.libmtl.hooks",
    "ProfileCache": "profiles.cache",
    "RotoGrad": "weighting.rotograd",
    "ScoringHook": "integrations.libmtl.scoring",
    "ScriptFlags": "integrations.libmtl.script_flags",
    "SingleTask": "integrations.libmtl.single_task",
    "SplitSpec": "splitting.spec",
    "StepResult": "weighting.step",
    "StopRun": "integrations.libmtl.hooks",
    "by_task": "splitting.outputs",
    "draw_profile": "conflicts.plot",
    "extract_task": "integrations.libmtl.architectures.extract",
    "find_script": "launcher",
    "fold_rotation": "weighting.rotation",
    "gradops_weights": "weighting.gradops",
    "known_weightings": "integrations.libmtl.arguments",
    "only_task": "splitting.split",
    "present_tasks": "integrations.libmtl.step",
    "run_module": "launcher",
    "run_script": "launcher",
    "script_flags": "integrations.libmtl.script_flags",
    "select_layers": "profiles.selection",
    "split_from": "integrations.libmtl.splits",
    "split_layers": "splitting.split",
    "step": "weighting.step",
    "summary": "integrations.libmtl.sizes",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    from libmtl_recon._deprecated import old_name

    return old_name(__name__, name)


def __dir__() -> list[str]:
    return __all__


register_when_imported()
