"""``prepare_args``, which knows our names as well as LibMTL's.

LibMTL's own function refuses names that it does not know, and scripts may have imported it
before us. So its code object is swapped: whoever holds the function calls ours, and ours calls
LibMTL's original code with a name that it knows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl import optimizers
from libmtl_recon.integrations.libmtl.flags import ARCHITECTURES, WEIGHTINGS, idle, training
from libmtl_recon.integrations.libmtl.patches import patch_status
from libmtl_recon.texts import did_you_mean

# What LibMTL's own code is told instead of a weighting of ours: one without arguments of its own.
_STAND_IN_WEIGHTING = "EW"
# LibMTL's architectures that it makes arguments for from these two flags, given or not.
_GATED = ("CGC", "PLE", "MMoE", "DSelect_k")
_GATE_FLAGS = {
    "img_size": "Say what one input's size is, e.g. --img_size 3 224 224.",
    "num_experts": "Say how many experts are shared and, with CGC and PLE, how many each task has, "
    "e.g. --num_experts 2 1 1.",
}

Prepared = tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]

_prepared: dict[str, Any] = {}
_training: dict[str, Any] = {}


def prepared_params() -> dict[str, Any]:
    """The arguments that the script last handed to ``prepare_args``; empty if it has not yet."""
    return dict(_prepared)


def prepared_training() -> dict[str, Any]:
    """The checked values of our training flags in these arguments; empty before that.

    A Trainer has no place for them: its ``kwargs`` go to the weighting and the architecture.
    """
    return dict(_training)


def forget_prepared() -> None:
    """Forget the arguments of a script that has ended, for the next one in this process."""
    _prepared.clear()
    _training.clear()
    idle.forget_said()


def known_weightings() -> list[str]:
    """The names that ``--weighting`` accepts, once LibMTL is imported; none before that."""
    module = sys.modules.get("LibMTL.weighting")
    return [] if module is None else sorted(_offered(vars(module)))


def swap_prepare_args(libmtl: ModuleType) -> None:
    """Make LibMTL's ``prepare_args`` ours, for everyone who holds it already, too."""
    config = libmtl.config
    original = FunctionType(
        config.prepare_args.__code__,
        # A copy of its globals in which it does not print: it would print the stand-in names.
        {**vars(config), "_display": lambda *_: None},
        "prepare_args",
    )
    vars(config)["_libmtl_recon_prepare"] = lambda params: prepare(libmtl, original, params)
    vars(config)["_libmtl_recon_original"] = original
    config.prepare_args.__code__ = _trampoline.__code__


def default_weight_args(libmtl: ModuleType, weighting: str) -> dict[str, Any]:
    """What LibMTL's own code makes of its flags' defaults for one of its weightings."""
    config = libmtl.config
    defaults = {action.dest: action.default for action in config.LibMTL_args._actions}
    chosen = {"weighting": weighting, "arch": "HPS", "optim": "adam", "scheduler": None}
    params = argparse.Namespace(**{**defaults, **chosen})
    kwargs, _, _ = vars(config)["_libmtl_recon_original"](params)
    found: dict[str, Any] = kwargs["weight_args"]
    return found


def _trampoline(params: Any) -> Any:
    # Runs with LibMTL.config's globals and must have no free variables.
    return _libmtl_recon_prepare(params)  # type: ignore[name-defined]  # noqa: F821


def prepare(libmtl: ModuleType, original: Any, params: argparse.Namespace) -> Prepared:
    """What ``prepare_args`` does now; a wrong value ends the program as argparse ends it."""
    _prepared.clear()
    _training.clear()
    _prepared.update(getattr(params, "__dict__", {}))
    try:
        prepared = complete(libmtl, original, params)
        _training.update(training.values(params))
    except ReconError as error:
        libmtl.config.LibMTL_args.exit(
            error.exit_status, f"{libmtl.config.LibMTL_args.prog}: error: {error}\n"
        )
        raise
    libmtl.config._display(params, *prepared)
    return prepared


def complete(libmtl: ModuleType, original: Any, params: argparse.Namespace) -> Prepared:
    """LibMTL's configuration for these arguments, ours included.

    Raises:
        UsageError: A name that neither LibMTL nor we know, or a wrong value of one of our flags.
    """
    flag, architecture = "--arch", params.arch
    if architecture in ARCHITECTURES:
        flag, architecture = "--recon_base", ARCHITECTURES[architecture].base_of(params)
    for name, flags in ARCHITECTURES.items():
        if params.arch != name:
            flags.refuse_idle(params)
    if architecture in _GATED:
        _require_gate_flags(params, f"{flag} {architecture}")
    patched = patch_status(libmtl).get("optimizers-schedulers") == "applied"
    stand_ins = _StandIns(params, patched)
    try:
        kwargs, optimizer, scheduler = original(stand_ins)
    except ValueError as error:
        if "No support weighting method" in str(error):
            raise _unknown("--weighting", params.weighting, libmtl.weighting) from error
        if "No support architecture method" in str(error):
            raise _unknown("--arch", params.arch, libmtl.architecture) from error
        raise
    if params.weighting in WEIGHTINGS:
        kwargs["weight_args"].update(WEIGHTINGS[params.weighting].values(params))
    if params.arch in ARCHITECTURES:
        kwargs["arch_args"].update(ARCHITECTURES[params.arch].values(params))
    read = stand_ins.read
    if patched and params.optim in optimizers.OPTIMIZERS:
        optimizer = optimizers.optimizer_values(params)
    if patched and params.scheduler in optimizers.SCHEDULERS:
        own = _StandIns(params, optimizers_too=False)
        scheduler = optimizers.scheduler_values(own)
        read = (read - optimizers.SCHEDULE) | own.read
    # All that LibMTL's code may read has its name in it; what it did not read has no effect.
    unread = frozenset(original.__code__.co_names) - read
    methods = {**WEIGHTINGS, **ARCHITECTURES}
    idle.say_idle(libmtl.config.LibMTL_args, params, methods, unread)
    return kwargs, optimizer, scheduler


def _require_gate_flags(params: Any, given: str) -> None:
    for name, way_out in _GATE_FLAGS.items():
        if not getattr(params, name, None):
            raise UsageError(f"--{name}", f"must be given with {given}", None, way_out)


class _StandIns:
    """A script's arguments, whatever their type, with names that LibMTL's own code knows.

    Attributes:
        read: The names of those that were asked for.

    Args:
        params: The arguments.
        optimizers_too: Whether LibMTL makes no arguments for some optimisers and schedulers.
    """

    def __init__(self, params: Any, optimizers_too: bool) -> None:
        self.read: frozenset[str] = frozenset()
        self._params = params
        self._optimizers_too = optimizers_too

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._params, name)
        self.read |= {name}
        if name == "weighting" and value in WEIGHTINGS:
            return _STAND_IN_WEIGHTING
        if name == "arch" and value in ARCHITECTURES:
            return ARCHITECTURES[value].base_of(self._params)
        if self._optimizers_too and name == "optim":
            return optimizers.OPTIMIZERS.get(value, value)
        if self._optimizers_too and name == "scheduler":
            return optimizers.SCHEDULERS.get(value, value)
        return value


def _unknown(flag: str, name: str, module: ModuleType) -> UsageError:
    names = sorted(_offered(vars(module)))
    return UsageError(
        flag,
        "must be one of those that are installed",
        name,
        f"{did_you_mean(name, names)}There are: {', '.join(names)}.",
    )


def _offered(names: Mapping[str, Any]) -> Iterable[str]:
    return (name for name, value in names.items() if isinstance(value, type) and "Abs" not in name)
