"""The flags of ``--arch Recon``."""

from __future__ import annotations

import argparse
import numbers
from typing import Any

from libmtl_recon.conflict.baselines import SELECTIONS
from libmtl_recon.errors import UsageError

_WAYS = "; ".join(f"{name}: {what}" for name, what in SELECTIONS.items())
HOME = "libmtl_recon.architecture.libmtl"
# The severity of Appendix B.1 of the Recon paper, for a ResNet18.
DEFAULT_S = -0.1


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to LibMTL's parser."""
    group = parser.add_argument_group("Recon (--arch Recon)")
    group.add_argument(
        "--recon_k",
        type=int,
        help="how many of the worst layers become task-specific; required with --arch Recon",
    )
    group.add_argument(
        "--recon_s",
        type=float,
        default=DEFAULT_S,
        help="severity: a conflict counts where the cosine of two tasks' gradients is below it; "
        "a multiple of 0.005 above -1 and up to 0 (default: %(default)s)",
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
        help="seed of a choice at random (default: that of --seed)",
    )
    group.add_argument(
        "--recon_layers",
        metavar="FILE",
        help="take the layers from this file, a profile written by `libmtl-recon layers export` "
        "or a JSON object {layer: score}, instead of the cache",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """The checked values that the architecture's constructor gets.

    Raises:
        UsageError: K is missing or below 1, S is no severity, or the choice is none.
    """
    from libmtl_recon.conflict.profile import check_severity
    from libmtl_recon.conflict.selection import check_select

    wanted = getattr(params, "recon_k", None)
    severity = getattr(params, "recon_s", DEFAULT_S)
    if not isinstance(wanted, numbers.Integral) or isinstance(wanted, bool) or wanted < 1:
        raise UsageError(
            "--recon_k",
            "must be given with --arch Recon, as a whole number of layers from 1 up",
            wanted,
            "Say how many of the worst layers each task gets for itself, e.g. --recon_k 12; "
            "`libmtl-recon layers show` has the ranking.",
        )
    check_severity("--recon_s", severity)
    select = getattr(params, "recon_select", "conflict")
    check_select("--recon_select", select)
    found = {
        "recon_k": wanted,
        "recon_s": severity,
        "recon_layers": getattr(params, "recon_layers", None),
    }
    if select != "conflict":
        own = getattr(params, "recon_select_seed", None)
        seed = getattr(params, "seed", 0) if own is None else own
        found |= {"recon_select": select, "recon_select_seed": seed or 0}
    return found
