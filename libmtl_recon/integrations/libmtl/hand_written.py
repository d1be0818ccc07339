"""Complete hand-written ``weight_args`` and ``arch_args`` of a script, and check ours.

LibMTL's ``prepare_args`` makes them from the flags; a script may instead pass a Trainer its own
dict, with only some of them, or none.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.arguments import default_weight_args
from libmtl_recon.integrations.libmtl.features import named_class
from libmtl_recon.integrations.libmtl.flags import ARCHITECTURES, WEIGHTINGS
from libmtl_recon.integrations.libmtl.wrapper import Call
from libmtl_recon.texts import nearest


def complete_arguments(call: Call) -> None:
    """Complete the ``weight_args`` and ``arch_args`` that a Trainer is given."""
    import LibMTL

    given = call.arguments
    weighting = named_class(LibMTL.weighting, given["weighting"])
    lr = dict(given["optim_param"] or {}).get("lr")
    more = given.get("kwargs", {})
    load_path = given.get("load_path")
    given["kwargs"] = completed(LibMTL, weighting, given["architecture"], more, lr, load_path)


def completed(
    libmtl: ModuleType,
    weighting: Any,
    architecture: Any,
    arguments: Mapping[str, Any],
    lr: Any,
    load_path: Any = None,
) -> dict[str, Any]:
    """Return a Trainer's further arguments, with defaults for ours and for weightings.

    Args:
        libmtl: LibMTL.
        weighting: The weighting's class, if it has one.
        architecture: A class or, on the main branch, a name.
        arguments: ``weight_args``, ``arch_args`` and all others that the script passes.
        lr: The network's learning rate, if it is known.
        load_path: The checkpoint that the Trainer is to load, if there is one.

    Raises:
        UsageError: A value is invalid, one without a default is missing, or there is no
            argument with this name.
    """
    found = {"weight_args": {}, "arch_args": {}, **arguments}
    for name, flags in WEIGHTINGS.items():
        if _is_one(weighting, vars(libmtl.weighting)[name]):
            more = {"lr": lr}
            found["weight_args"] = _filled(flags, name, "weight_args", found["weight_args"], more)
    if _is_libmtls(libmtl, weighting):
        defaults = default_weight_args(libmtl, weighting.__name__)
        found["weight_args"] = {**defaults, **(found["weight_args"] or {})}
    for name, flags in ARCHITECTURES.items():
        ours = vars(libmtl.architecture)[name]
        if architecture == name or _is_one(architecture, ours):
            more = {"lr": lr, "load_path": load_path}
            found["arch_args"] = _filled(flags, name, "arch_args", found["arch_args"], more)
    return found


def _filled(
    flags: ModuleType,
    method: str,
    parameter: str,
    given: Mapping[str, Any] | None,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    given = dict(given or {})
    parser = argparse.ArgumentParser(add_help=False)
    flags.add(parser)
    known = [action.dest for action in parser._actions]
    prefix = known[0].partition("_")[0]
    for name in given.keys() - getattr(flags, "MADE", ()):
        close = nearest(name, known, likeness=0.8)
        # Others may be the base architecture's, or belong to another weighting of the script.
        if name not in known and (close or str(name).startswith(f"{prefix}_")):
            hint = f"Did you mean {close[0]}? " if close else ""
            raise UsageError(
                parameter,
                f"must have no unknown keys of {method}",
                name,
                f"{hint}There are {', '.join(known)}.",
            )
    # The rate used for a default; a given one is compared when the training begins.
    without = {"lr": None} if f"{prefix}_lr" in given else {}
    return {**given, **flags.values(argparse.Namespace(**{**more, **without, **given}))}


def _is_one(given: Any, ours: type) -> bool:
    return isinstance(given, type) and issubclass(given, ours)


def _is_libmtls(libmtl: ModuleType, weighting: Any) -> bool:
    """Return whether LibMTL's own code makes arguments for a weighting."""
    listed = vars(libmtl.weighting).get(getattr(weighting, "__name__", "")) is weighting
    return isinstance(weighting, type) and listed and weighting.__module__.startswith("LibMTL.")
