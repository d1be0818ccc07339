"""The names of the last release that have changed, which work for one more release.

A module that has moved has a small module in its old place, which looks up names in the new place,
each with a DeprecationWarning. Classes are the same objects, so old pickles load.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

_ROOT = "libmtl_recon"

# All of these stand for modules of libmtl_recon.
MODULES = {
    "architecture": "splitting",
    "architecture.agreement": "splitting.agreement",
    "architecture.apart": "splitting.per_task_output",
    "architecture.arguments": "splitting.arguments",
    "architecture.attention": "splitting.attention",
    "architecture.branches": "integrations.libmtl.architectures.branches",
    "architecture.bundle": "splitting.task_tensor",
    "architecture.checkpoint": "splitting.checkpoint",
    "architecture.compiled": "splitting.compile_compat",
    "architecture.custom_functions": "splitting.custom_functions",
    "architecture.differentiating": "splitting.differentiating",
    "architecture.drawing": "splitting.reinit",
    "architecture.entries": "splitting.entries",
    "architecture.extract": "splitting.extract",
    "architecture.finding": "splitting.layer_lookup",
    "architecture.following": "splitting.call_tracking",
    "architecture.libmtl": "integrations.libmtl.architectures.recon",
    "architecture.names": "splitting.names",
    "architecture.nested": "splitting.pytree",
    "architecture.outputs": "splitting.outputs",
    "architecture.reading": "splitting.torch_files",
    "architecture.recomputing": "splitting.checkpoint_compat",
    "architecture.split": "splitting.split",
    "architecture.starting": "integrations.libmtl.architectures.starting",
    "architecture.state": "splitting.state",
    "architecture.statistics": "splitting.norm_statistics",
    "architecture.task_selection": "splitting.task_selection",
    "architecture.task_specific": "splitting.task_specific",
    "architecture.ties": "splitting.ties",
    "architecture.transforms": "splitting.transforms",
    "architecture.undoing": "splitting.buffer_rollback",
    "architecture.writing": "splitting.inplace",
    "commands": "integrations.libmtl.commands",
    "conflict": "conflicts",
    "conflict.adding": "conflicts.merge",
    "conflict.baselines": "conflicts.baselines",
    "conflict.cache": "profiles.cache",
    "conflict.comparing": "conflicts.compare",
    "conflict.distribution": "conflicts.distribution",
    "conflict.exclusive": "profiles.scoring_lock",
    "conflict.fingerprint": "conflicts.fingerprint",
    "conflict.grid": "conflicts.grid",
    "conflict.intervals": "conflicts.intervals",
    "conflict.layers": "conflicts.layers",
    "conflict.plot": "conflicts.plot",
    "conflict.probe": "conflicts.counter",
    "conflict.profile": "conflicts.profile",
    "conflict.runs": "conflicts.runs",
    "conflict.schedule": "conflicts.schedule",
    "conflict.selection": "profiles.selection",
    "conflict.serial": "conflicts.file_format",
    "conflict.sources": "profiles.sources",
    "conflict.stability": "conflicts.stability",
    "conflict.stores": "profiles.stores",
    "conflict.strict_json": "conflicts.strict_json",
    "conflict.unfinished": "profiles.recovery",
    "gradient": "gradients",
    "gradient.adding": "gradients.accumulate",
    "gradient.columns": "gradients.columns",
    "gradient.gramian": "gradients.gramian",
    "gradient.per_task": "gradients.per_task",
    "gradient.recognising": "integrations.libmtl.step.loss_graph",
    "gradient.rows": "gradients.rows",
    "gradient.split_losses": "integrations.libmtl.step.split_losses",
    "gradient.step": "integrations.libmtl.step.step",
    "gradient.touched": "gradients.sparse",
    "labels": "integrations.libmtl.missing_labels",
    "labels.masked": "integrations.libmtl.missing_labels.masked",
    "labels.rows": "integrations.libmtl.missing_labels.rows",
    "plugin": "integrations.libmtl",
    "plugin.arguments": "integrations.libmtl.arguments",
    "plugin.bilevel": "integrations.libmtl.bilevel",
    "plugin.checkpoints": "integrations.libmtl.checkpoints",
    "plugin.compiled": "integrations.libmtl.compiled",
    "plugin.decoders": "integrations.libmtl.decoders",
    "plugin.encoders": "integrations.libmtl.encoders",
    "plugin.extracting": "integrations.libmtl.extracting",
    "plugin.features": "integrations.libmtl.features",
    "plugin.flags": "integrations.libmtl.flags",
    "plugin.flags.collisions": "integrations.libmtl.flags.collisions",
    "plugin.flags.gradops": "integrations.libmtl.flags.gradops",
    "plugin.flags.idle": "integrations.libmtl.flags.idle",
    "plugin.flags.recon": "integrations.libmtl.flags.recon",
    "plugin.flags.rotograd": "integrations.libmtl.flags.rotograd",
    "plugin.flags.training": "integrations.libmtl.flags.training",
    "plugin.hand_written": "integrations.libmtl.hand_written",
    "plugin.importing": "integrations.libmtl.importing",
    "plugin.labels": "integrations.libmtl.missing_labels",
    "plugin.labels.losses": "integrations.libmtl.missing_labels.losses",
    "plugin.labels.pairs": "integrations.libmtl.missing_labels.pairs",
    "plugin.labels.scores": "integrations.libmtl.missing_labels.scores",
    "plugin.labels.steps": "integrations.libmtl.missing_labels.steps",
    "plugin.labels.weightings": "integrations.libmtl.missing_labels.weightings",
    "plugin.leading": "integrations.libmtl.lr_guard",
    "plugin.mends": "integrations.libmtl.patches",
    "plugin.observing": "integrations.libmtl.hooks",
    "plugin.packages": "integrations.libmtl.packages",
    "plugin.parser": "integrations.libmtl.parser",
    "plugin.precision": "integrations.libmtl.precision",
    "plugin.provenance": "integrations.libmtl.provenance",
    "plugin.recon": "integrations.libmtl.recon",
    "plugin.refusals": "integrations.libmtl.refusals",
    "plugin.registry": "integrations.libmtl.registry",
    "plugin.replacing": "integrations.libmtl.replacing",
    "plugin.scoring": "integrations.libmtl.scoring",
    "plugin.shared_layers": "integrations.libmtl.shared_layers",
    "plugin.single_task": "integrations.libmtl.single_task",
    "plugin.spawning": "integrations.libmtl.spawn",
    "plugin.step": "integrations.libmtl.step",
    "plugin.step.adding_up": "integrations.libmtl.step.accumulation",
    "plugin.step.cagrad": "integrations.libmtl.step.cagrad",
    "plugin.step.functions": "integrations.libmtl.step.functions",
    "plugin.step.gradvac": "integrations.libmtl.step.gradvac",
    "plugin.step.gramians": "integrations.libmtl.step.gramians",
    "plugin.step.pcgrad": "integrations.libmtl.step.pcgrad",
    "plugin.step.shared": "integrations.libmtl.step.task_gradients",
    "weighting.libmtl": "integrations.libmtl.weightings",
    "weighting.libmtl.gradops": "integrations.libmtl.weightings.gradops",
    "weighting.libmtl.rotograd": "integrations.libmtl.weightings.rotograd",
}

# Names that are not only elsewhere now.
NAMES = {
    "Bundle": "TaskTensor",
    "Observer": "TrainerHook",
    "ScoringObserver": "ScoringHook",
    "architecture.Bundle": "splitting.TaskTensor",
    "architecture.starting.load_unsplit": "integrations.libmtl.architectures.starting.load_start",
    "architecture.bundle.Bundle": "splitting.task_tensor.TaskTensor",
    "architecture.bundle.bundles_in": "splitting.task_tensor.task_tensors_in",
    "architecture.extract.extract_task": "extract_task",
    "architecture.extract_task": "extract_task",
    "architecture.drawing.draw_anew": "splitting.reinit.reinitialize",
    "architecture.drawing.refuse_undrawable": "splitting.reinit.refuse_uninitializable",
    "conflict.exclusive.ScoringTurn": "profiles.scoring_lock.ScoringLock",
    "conflict.probe.ConflictProbe": "conflicts.counter.ConflictCounter",
    "conflict.unfinished.Unfinished": "profiles.recovery.RecoveryFile",
    "gradient.SplitLosses": "integrations.libmtl.step.split_losses.SplitLosses",
    "gradient.hand_out": "integrations.libmtl.step.step.assign_grad",
    "gradient.present_tasks": "integrations.libmtl.step.step.present_tasks",
    "gradient.step.hand_out": "integrations.libmtl.step.step.assign_grad",
    "gradient.task_rows": "integrations.libmtl.step.step.task_rows",
    "gradient.task_scalars": "integrations.libmtl.step.step.task_scalars",
    "labels.Masked": "integrations.libmtl.missing_labels.masked.Masked",
    "labels.labelled_rows": "integrations.libmtl.missing_labels.rows.labelled_rows",
    "labels.take_rows": "integrations.libmtl.missing_labels.rows.take_rows",
    "launcher.StopRun": "StopRun",
    "plugin.extracting.ExtractingObserver": "integrations.libmtl.extracting.ExtractingHook",
    "plugin.mends.MENDS": "integrations.libmtl.patches.PATCHES",
    "plugin.mends.verdicts": "integrations.libmtl.patches.patch_status",
    "plugin.observing.Observer": "integrations.libmtl.hooks.TrainerHook",
    "plugin.observing.observe": "integrations.libmtl.hooks.trainer_hooks",
    "plugin.scoring.ScoringObserver": "integrations.libmtl.scoring.ScoringHook",
}


def stand_in(module: str) -> Callable[[str], Any]:
    """Warn that a module has moved, and make its submodules importable by their old names.

    Args:
        module: The old name of the module, under which it is being imported.

    Returns:
        The ``__getattr__`` of the module.
    """
    _warn(f"The module {module}", MODULES[_short(module)])
    for moved, home in MODULES.items():
        below = f"{_ROOT}.{moved}"
        if below.startswith(f"{module}."):
            sys.modules[below] = ModuleType(below, f"Deprecated: it is {_ROOT}.{home} now.")
            vars(sys.modules[below])["__getattr__"] = partial(old_name, below)
    return partial(old_name, module)


def old_name(module: str, name: str) -> Any:
    """Return the object of a deprecated name, with a warning.

    Args:
        module: The old name of the module that had it.
        name: The name of the attribute.

    Raises:
        AttributeError: The module had no such attribute, or it was removed.
    """
    if module == _ROOT and name in MODULES:
        return import_module(f"{_ROOT}.{name}")
    home = MODULES.get(_short(module))
    if name == "__all__" and home is not None:
        return _public_names(_short(module), home)
    new = NAMES.get(_short(f"{module}.{name}"), home and f"{home}.{name}")
    if new is not None and not name.startswith("__"):
        place, _, attribute = f"{_ROOT}.{new}".rpartition(".")
        found = getattr(import_module(place), attribute, None)
        # A function may have the name of the module that it is in.
        if found is not None and not isinstance(found, ModuleType):
            _warn(f"{module}.{name}", new)
            return found
        if f"{module}.{name}" in sys.modules:
            return sys.modules[f"{module}.{name}"]
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def _short(name: str) -> str:
    return name.removeprefix(f"{_ROOT}.")


def _public_names(module: str, home: str) -> list[str]:
    new = import_module(f"{_ROOT}.{home}")
    listed = getattr(new, "__all__", [name for name in vars(new) if not name.startswith("_")])
    renamed = (old.rpartition(".") for old in NAMES)
    return sorted({*listed, *(name for room, _, name in renamed if room == module)})


def _warn(old: str, new: str) -> None:
    """Warn with the line of the caller, past the frames of this package and of Python."""
    frame = inspect.currentframe()
    while frame is not None and _between(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    if frame is None:  # asked from C
        frame = inspect.currentframe()
    assert frame is not None
    warnings.warn_explicit(
        f"{old} is deprecated and will go with the next release; it is {_ROOT}.{new} now.",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_globals.get("__name__", ""),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _between(module: str) -> bool:
    return module.partition(".")[0] in (_ROOT, "importlib", "_frozen_importlib")
