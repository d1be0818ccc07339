"""``prepare_args`` with this package's names in addition to LibMTL's.

LibMTL's own function refuses names that it does not know. It is replaced by a function that calls
it with names that it knows. A script may have imported LibMTL's before this package: its modules
are given the replacement, and where it has stored LibMTL's elsewhere, calling that is refused.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl import optimizers, prepared_arguments, script_flags
from libmtl_recon.integrations.libmtl.flags import ARCHITECTURES, WEIGHTINGS, idle, training
from libmtl_recon.integrations.libmtl.patches import patch_status
from libmtl_recon.texts import did_you_mean

# Passed to LibMTL's code instead of our weighting: a weighting of LibMTL without arguments.
_STAND_IN_WEIGHTING = "EW"
# LibMTL's architectures for which it creates arguments from these two flags, given or not.
_GATED = ("CGC", "PLE", "MMoE", "DSelect_k")
_GATE_FLAGS = {
    "img_size": "Set the size of one input, e.g. --img_size 3 224 224.",
    "num_experts": "Set the number of shared experts and, with CGC and PLE, each task's number of "
    "experts, e.g. --num_experts 2 1 1.",
}

# The name under which LibMTL's configuration keeps its own `prepare_args`.
_OWN = "_libmtl_recon_own_prepare_args"

Prepared = tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]


def forget_prepared() -> None:
    """Forget the arguments of a script that has ended, for the next one in this process."""
    prepared_arguments.forget()
    idle.forget_said()


def known_weightings() -> list[str]:
    """Return the names that ``--weighting`` accepts; none before LibMTL is imported."""
    module = sys.modules.get("LibMTL.weighting")
    return [] if module is None else sorted(_offered(vars(module)))


def replace_prepare_args(libmtl: ModuleType) -> None:
    """Replace LibMTL's ``prepare_args`` in each module that has it already."""
    config = libmtl.config
    own = config.prepare_args

    @functools.wraps(own)
    def prepare_args(params: Any) -> Prepared:
        return prepare(libmtl, params)

    config._display = _Display(libmtl, config._display)
    for module in list(sys.modules.values()):
        # Not all entries are modules, and some import what they are asked for.
        names = getattr(module, "__dict__", None)
        held = [name for name, value in dict(names or {}).items() if value is own]
        for name in held:
            setattr(module, name, prepare_args)
    vars(config)[_OWN] = own


class _Display:
    """LibMTL's ``_display``, with which its ``prepare_args`` ends, for our calls alone.

    Any other caller holds LibMTL's ``prepare_args`` from before the registration.
    """

    def __init__(self, libmtl: ModuleType, own: Any) -> None:
        self.ours = False  # true while the result of our function is shown
        self._libmtl = libmtl
        self._own = own

    def __call__(self, *prepared: Any) -> None:
        if not self.ours:
            error = ReconError(
                "This script calls the prepare_args that it took from LibMTL before "
                "libmtl_recon was imported, and stores it where it cannot be replaced, for "
                "example in a function's variable. Import libmtl_recon before LibMTL."
            )
            raise _stopped(self._libmtl, error)
        self._own(*prepared)


def _ask_libmtl(libmtl: ModuleType, params: Any) -> Prepared:
    """Return what LibMTL's own code makes of these arguments, without its output."""
    config = libmtl.config
    # It would print the substituted names.
    shown, config._display = config._display, lambda *_: None
    try:
        prepared: Prepared = vars(config)[_OWN](params)
    finally:
        config._display = shown
    return prepared


def _show(libmtl: ModuleType, params: Any, prepared: Prepared) -> None:
    display = libmtl.config._display  # a script may have replaced it
    if not isinstance(display, _Display):
        display(params, *prepared)
        return
    display.ours = True
    try:
        display(params, *prepared)
    finally:
        display.ours = False


def default_weight_args(libmtl: ModuleType, weighting: str) -> dict[str, Any]:
    """Return what LibMTL's code makes of its flags' defaults for one of its weightings."""
    defaults = {action.dest: action.default for action in libmtl.config.LibMTL_args._actions}
    chosen = {"weighting": weighting, "arch": "HPS", "optim": "adam", "scheduler": None}
    kwargs, _, _ = _ask_libmtl(libmtl, argparse.Namespace(**{**defaults, **chosen}))
    found: dict[str, Any] = kwargs["weight_args"]
    return found


def prepare(libmtl: ModuleType, params: argparse.Namespace) -> Prepared:
    """Run the new ``prepare_args``; an invalid value ends the program as argparse does."""
    script_flags.end_if_asked()
    prepared_arguments.keep(params)
    try:
        prepared = complete(libmtl, params)
        prepared_arguments.keep_training(training.values(params))
    except ReconError as error:
        raise _stopped(libmtl, error) from None
    _show(libmtl, params, prepared)
    return prepared


def _stopped(libmtl: ModuleType, error: ReconError) -> ReconError:
    """End the program as argparse does; return the error where the parser does not end it."""
    parser = libmtl.config.LibMTL_args
    parser.exit(error.exit_status, f"{parser.prog}: error: {error}\n")
    return error


def complete(libmtl: ModuleType, params: argparse.Namespace) -> Prepared:
    """Return LibMTL's configuration for these arguments, including ours.

    Raises:
        UsageError: A name is unknown to LibMTL and this package, or one of our flags has an
            invalid value.
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
        kwargs, optimizer, scheduler = _ask_libmtl(libmtl, stand_ins)
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
    methods = {**WEIGHTINGS, **ARCHITECTURES}
    idle.say_idle(libmtl.config.LibMTL_args, params, methods, read)
    return kwargs, optimizer, scheduler


def _require_gate_flags(params: Any, given: str) -> None:
    for name, way_out in _GATE_FLAGS.items():
        if not getattr(params, name, None):
            raise UsageError(f"--{name}", f"must be given with {given}", None, way_out)


class _StandIns:
    """A script's arguments, of any type, with names that LibMTL's own code knows.

    Attributes:
        read: The names of the arguments that were read.

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
