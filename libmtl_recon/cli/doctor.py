"""``libmtl-recon doctor``: what was found, and what is done about it."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from libmtl_recon.cli.command import add_command
from libmtl_recon.errors import ReconError

_PACKAGES = ("libmtl-recon", "torch", "torchvision", "numpy", "optuna")
_SUMMARY = "show versions, device, cache and what is patched in LibMTL"
_DESCRIPTION = """\
Show which LibMTL was found, on what it would train, where profiles are kept, and which of LibMTL's
defects are patched. LIBMTL_RECON_PATCHES=none switches all patches off; with
LIBMTL_RECON_PATCHES=NAME,NAME those alone are applied, also to a LibMTL of an unknown version, for
which the others are not checked.
"""
_EPILOG = """\
example:
  libmtl-recon doctor
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(commands, "doctor", _SUMMARY, _DESCRIPTION, _EPILOG)
    parser.set_defaults(handle=_handle)


def _handle(_: argparse.Namespace) -> int:
    import LibMTL

    from libmtl_recon.cli.tables import make_console, make_table, say, show_table
    from libmtl_recon.integrations.libmtl.features import detect
    from libmtl_recon.integrations.libmtl.patches import (
        PATCHES,
        patch_status,
        unknown_functions,
    )

    facts = {
        "Python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "LibMTL": f"{_version('LibMTL')} ({detect(LibMTL).label}), {Path(LibMTL.__file__).parent}",
        "device": _device(),
        "profiles": _profiles(),
    }
    for name, fact in facts.items():
        say(f"{name + ':':14} {fact}")
    say("")
    found = patch_status(LibMTL)
    console = make_console()
    table = make_table(console, "patch", "state", "without it")
    for patch in PATCHES:
        table.add_row(patch.name, found.get(patch.name, "not needed"), patch.reason)
    show_table(console, table)
    for name, functions in unknown_functions(LibMTL).items():
        say(f"{name}: of an unknown version of LibMTL, and left alone: {', '.join(functions)}")
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
    except ReconError as error:  # one more finding
        return str(error)


def _profiles() -> str:
    from libmtl_recon.profiles.cache import ProfileCache

    try:
        cache = ProfileCache()
        return f"{len(cache.list())} in {cache.folder}"
    except ReconError as error:  # one more finding
        return str(error)
