"""The flags of ``--arch Recon``."""

from __future__ import annotations

import argparse
import numbers
from typing import Any

from libmtl_recon.errors import UsageError

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
        "--recon_layers",
        metavar="FILE",
        help="take the layers from this file, a profile written by `libmtl-recon layers export` "
        "or a JSON object {layer: score}, instead of the cache",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """The checked values that the architecture's constructor gets.

    Raises:
        UsageError: K is missing or below 1, or S is no severity.
    """
    from libmtl_recon.conflict.profile import check_severity

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
    return {
        "recon_k": wanted,
        "recon_s": severity,
        "recon_layers": getattr(params, "recon_layers", None),
    }
