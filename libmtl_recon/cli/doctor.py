"""``libmtl-recon doctor``: report versions, the device, and the state of each patch."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from libmtl_recon.cli.command import add_command, add_script, launch, target_of
from libmtl_recon.errors import ReconError, UsageError

_PACKAGES = ("libmtl-recon", "torch", "torchvision", "numpy", "optuna")
_SUMMARY = "show versions, device, what is patched in LibMTL, and how gradients are computed"
_DESCRIPTION = """\
Show which LibMTL was found, on which device it would train, where profiles are kept, and which of
LibMTL's defects are patched. LIBMTL_RECON_PATCHES=none switches all patches off; with
LIBMTL_RECON_PATCHES=NAME,NAME only these are applied, also to an unknown version of LibMTL, for
which the others are not checked.

With a script, show instead how the inner products of the tasks' gradients will be computed in each
shared layer (--recon_gradients): the script is run up to its first training step, which does not
change the network.
"""
_EPILOG = """\
examples:
  libmtl-recon doctor
  libmtl-recon doctor main.py --weighting GradOPS
  libmtl-recon doctor main.py --weighting EW --recon_gradients ghost     for scoring
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, "doctor", _SUMMARY, _DESCRIPTION, _EPILOG)
    add_script(parser, optional=True)
    parser.set_defaults(handle=_handle)


def _handle(options: argparse.Namespace) -> int:
    if options.script is not None:
        return _show_plan(options)
    if options.module:
        raise UsageError(
            "-m", "needs the name of a module after it", None, "Add a name, or leave -m out."
        )
    return _show_facts()


def _show_plan(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.consoles import make_console
    from libmtl_recon.integrations.libmtl.planning import PlanningHook

    hook = PlanningHook()
    status = launch(options, [hook])
    found = hook.found
    if found is None:
        if status == 0:
            raise ReconError(
                f"{target_of(options)} ended before it called the backward of a LibMTL model, so "
                "there is nothing to show. Make its Trainer train."
            )
        return status
    say(f"--weighting {found.weighting} {found.what}")
    if found.plan is None:
        return status
    say("")
    console = make_console()
    table = make_table(console, "layer", "way", "reason")
    for way in found.plan.ways:
        table.add_row(way.layer, way.way, way.reason)
    show_table(console, table)
    say("")
    numbers, held = found.plan.numbers, found.plan.held
    say(
        f"{found.tasks} task gradients have {numbers:,} numbers each, of which {held:,} are held "
        f"at a time ({100 * held / max(numbers, 1):.3g} %). "
        + (
            "The update is their weighted sum."
            if found.plan.stored
            else "The update is one additional backward pass."
        )
    )
    return status


def _show_facts() -> int:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.consoles import make_console
    from libmtl_recon.integrations.libmtl.features import detect, installed
    from libmtl_recon.integrations.libmtl.patches import (
        PATCHES,
        patch_status,
        unknown_functions,
    )

    libmtl = installed()
    facts = {
        "Python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "LibMTL": f"{_version('LibMTL')} ({detect(libmtl).label}), {libmtl.__path__[0]}",
        "device": _device(),
        "profiles": _profiles(),
    }
    for name, fact in facts.items():
        say(f"{name + ':':14} {fact}")
    say("")
    found = patch_status(libmtl)
    console = make_console()
    table = make_table(console, "patch", "state", "without it")
    for patch in PATCHES:
        table.add_row(patch.name, found.get(patch.name, "not needed"), patch.reason)
    show_table(console, table)
    for name, functions in unknown_functions(libmtl).items():
        say(f"{name}: left unchanged, from an unknown version of LibMTL: {', '.join(functions)}")
    return 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    from libmtl_recon.integrations.libmtl.device import choose_device

    try:
        return str(choose_device())
    except ReconError as error:  # reported as one more finding
        return str(error)


def _profiles() -> str:
    from libmtl_recon.profiles.cache import ProfileCache

    try:
        cache = ProfileCache()
        return f"{len(cache.list())} in {cache.folder}"
    except ReconError as error:  # reported as one more finding
        return str(error)
