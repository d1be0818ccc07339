"""The flags of ``--arch Recon``."""

from __future__ import annotations

import argparse
import numbers
from typing import Any

from libmtl_recon.conflicts.baselines import MEASURED, SEEDED, SELECTIONS
from libmtl_recon.errors import UsageError
from libmtl_recon.files import is_file

_WAYS = "; ".join(f"{name}: {what}" for name, what in SELECTIONS.items())
HOME = "libmtl_recon.integrations.libmtl.architectures.recon"
# What `values` returns in addition to the values of flags.
MADE = ("recon_split",)
# The severity of Appendix B.1 of the Recon paper, for a ResNet18.
DEFAULT_S = -0.1
DEFAULT_BASE = "HPS"
BN = ("per_task", "mixed")
INIT = ("copy", "fresh")
_OF_LAYERS = ("recon_match", "recon_skip_missing")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to LibMTL's parser."""
    group = parser.add_argument_group("Recon (--arch Recon)")
    group.add_argument(
        "--recon_k",
        type=int,
        help="number of layers, of those that conflict most, that become task-specific; "
        "required with --arch Recon",
    )
    group.add_argument(
        "--recon_s",
        type=float,
        default=DEFAULT_S,
        help="severity S: two tasks conflict in a layer if the cosine of their gradients is "
        "below S; a multiple of 0.005, above -1 and at most 0 (default: %(default)s)",
    )
    group.add_argument(
        "--recon_select",
        metavar="WAY",
        default="conflict",
        help=f"how the layers are chosen: {_WAYS} (default: %(default)s)",
    )
    group.add_argument(
        "--recon_select_seed",
        type=int,
        metavar="N",
        help="seed of a random choice (default: that of --seed)",
    )
    group.add_argument(
        "--recon_layers",
        metavar="FROM",
        help="where the layers come from, instead of the newest profile that fits: the ID of a "
        "profile in the cache; a file with an exported profile, a JSON object {layer: score} or "
        "a JSON list of layers; the name of a built-in profile; or the comma-separated names of "
        "the layers, worst first",
    )
    group.add_argument(
        "--recon_match",
        metavar="WAY",
        default="names",
        help="how the layers' names in --recon_layers are matched with this network's: names: the "
        "same names, with or without wrappers (module., _orig_mod., encoder., .m_list.0); order: "
        "the same positions, from a source that has all layers in network order; order:FILE: the "
        "same, where FILE is a JSON list of the source's names in network order (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--recon_skip_missing",
        action="store_true",
        default=None,
        help="leave out layers of --recon_layers that this network lacks (default: the source is "
        "refused)",
    )
    group.add_argument(
        "--recon_base",
        metavar="ARCH",
        default=DEFAULT_BASE,
        help="the architecture of LibMTL whose shared layers are split: HPS, MTAN, MMoE, CGC, PLE "
        "or DSelect_k, with that architecture's own flags (default: %(default)s)",
    )
    group.add_argument(
        "--recon_bn",
        metavar="|".join(BN),
        default=BN[0],
        help="running statistics of batch norms that stay shared but are behind a split: one "
        "set per task, or one buffer that all tasks update, as in the program of the paper's "
        "authors (default: %(default)s)",
    )
    group.add_argument(
        "--recon_init",
        metavar="|".join(INIT),
        default=INIT[0],
        help="the tasks' copies start equal, or each is initialised anew (default: %(default)s)",
    )
    group.add_argument(
        "--recon_from",
        metavar="FILE",
        help="split a trained network and continue training: a state dict of the network before "
        "its split (the model's or the encoder's), or {'model': state dict, 'optimizer': state "
        "dict}, saved by torch.save; or continue with a network that is already split, whose "
        "file records how",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """Check the flags and return the values for the architecture's constructor.

    If a checkpoint records how the network is split, flags that were left out take its values.

    Raises:
        UsageError: K is missing or below 1, S is not a valid severity, a name is unknown, or a
        flag contradicts the checkpoint.
        ReconError: The checkpoint cannot be read.
    """
    from libmtl_recon.conflicts.profile import check_severity
    from libmtl_recon.integrations.libmtl.split_source import refuse_unsaid
    from libmtl_recon.profiles.selection import check_select

    split = _split(params)
    if split is not None:
        return _as_saved(split, params)
    # A script may create its arguments with another parser, which does not know our flags.
    wanted = getattr(params, "recon_k", None)
    severity = getattr(params, "recon_s", DEFAULT_S)
    if wanted is None:
        refuse_unsaid(*_files(params))
    if not isinstance(wanted, numbers.Integral) or isinstance(wanted, bool) or wanted < 1:
        raise UsageError(
            "--recon_k",
            "must be given with --arch Recon, as a whole number of layers from 1 up",
            wanted,
            "It is the number of layers of which each task gets its own copy, e.g. --recon_k "
            "12; `libmtl-recon layers show` shows the ranking.",
        )
    check_severity("--recon_s", severity)
    select = getattr(params, "recon_select", "conflict")
    check_select("--recon_select", select)
    found = {
        "recon_k": wanted,
        "recon_s": severity,
        "recon_layers": getattr(params, "recon_layers", None),
    }
    found |= _matching(params)
    if select != "conflict":
        own = getattr(params, "recon_select_seed", None)
        seed = getattr(params, "seed", 0) if own is None else own
        found |= {"recon_select": select, "recon_select_seed": seed or 0}
    base = base_of(params)
    if base != DEFAULT_BASE:
        found["recon_base"] = base
    for flag, known in (("recon_bn", BN), ("recon_init", INIT)):
        value = getattr(params, flag, known[0])
        if value not in known:
            raise UsageError(
                f"--{flag}", f"must be {' or '.join(known)}", value, "Leave it out for the first."
            )
        if value != known[0]:
            found[flag] = value
    start = getattr(params, "recon_from", None)
    if start is not None:
        if found.get("recon_init") == "fresh":
            raise UsageError(
                "--recon_init",
                "must be copy with --recon_from, because the copies get its trained values",
                "fresh",
                "Leave out one of the two.",
            )
        found["recon_from"] = start
    return found


def _matching(params: Any) -> dict[str, Any]:
    """Return how the names of ``--recon_layers`` are matched, where it is not the usual way."""
    from libmtl_recon.profiles.layer_names import NAMES, check_match

    match = getattr(params, "recon_match", NAMES)
    check_match("--recon_match", match)
    found: dict[str, Any] = {} if match == NAMES else {"recon_match": match}
    if getattr(params, "recon_skip_missing", False):
        found["recon_skip_missing"] = True
    return found


def _split(params: Any) -> Any:
    """Return the split recorded in a checkpoint; None if there is none."""
    from libmtl_recon.integrations.libmtl.split_source import split_source

    made = getattr(params, "recon_split", None)  # by `values`, of the flags before
    if made is not None:
        return made
    return split_source(*_files(params))


def _files(params: Any) -> tuple[Any, Any]:
    """Return the checkpoints of ``--load_path`` and ``--recon_from``; None for those not given."""
    from libmtl_recon.integrations.libmtl.split_source import loads_models

    load_path = getattr(params, "load_path", None) if loads_models() else None
    start = getattr(params, "recon_from", None)
    return load_path, start if start is not None and is_file(start) else None


def _as_saved(split: Any, params: Any) -> dict[str, Any]:
    from libmtl_recon.integrations.libmtl.flags.contradictions import given, refuse_contradictions
    from libmtl_recon.integrations.libmtl.splits import base_of as saved_base

    refuse_contradictions(split, params)
    found = {"recon_split": split}
    for dest in ("recon_from", "recon_layers"):
        if given(params, dest):
            found[dest] = getattr(params, dest)
    found |= _matching(params)
    base = saved_base(split.spec)
    return found if base == DEFAULT_BASE else {**found, "recon_base": base}


def idle(params: Any) -> dict[str, str]:
    """Return why some of the flags have no effect with ``--arch Recon``, by dest."""
    select = getattr(params, "recon_select", "conflict")
    found = {}
    if select not in SEEDED:
        found["recon_select_seed"] = f"with --recon_select {select}, which is not random"
    if select not in MEASURED:
        for dest in ("recon_s", "recon_layers", *_OF_LAYERS):
            found[dest] = f"with --recon_select {select}, which does not use conflicts"
    elif getattr(params, "recon_layers", None) is None:
        for dest in _OF_LAYERS:
            found[dest] = "without --recon_layers, which gives the names"
    return found


def refuse_idle(params: Any) -> None:
    """Refuse a trained network for an architecture that does not use it.

    Raises:
        UsageError: One is given.
    """
    start = getattr(params, "recon_from", None)
    if start is not None:
        raise UsageError(
            "--recon_from",
            "must be given with --arch Recon, which splits the network in the file",
            start,
            "Add --arch Recon, or leave out --recon_from to start a new training.",
        )


def base_of(params: Any) -> str:
    """Return the architecture that is split.

    Raises:
        UsageError: LibMTL has no architecture with this name, or it shares no layers.
    """
    from libmtl_recon.integrations.libmtl.architectures.recon import recon_over
    from libmtl_recon.integrations.libmtl.flags.contradictions import refuse_contradictions
    from libmtl_recon.integrations.libmtl.splits import base_of as saved_base

    split = _split(params)
    base: str = getattr(params, "recon_base", DEFAULT_BASE)
    if split is not None:
        refuse_contradictions(split, params)
        base = saved_base(split.spec)
    recon_over(base)
    return base
