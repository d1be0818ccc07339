"""Our command-line flags, added to LibMTL's parser."""

from __future__ import annotations

import argparse
import math
import numbers
from types import ModuleType
from typing import Any

from libmtl_recon.errors import UsageError

DEFAULT_ALPHA = 0.0
# The severity of Appendix B.1 of the Recon paper, for a ResNet18.
DEFAULT_S = -0.1


def add_flags(libmtl: ModuleType) -> None:
    """Add our flags to ``LibMTL_args``, once."""
    parser: argparse.ArgumentParser = libmtl.config.LibMTL_args
    gradops = parser.add_argument_group("GradOPS (--weighting GradOPS)")
    gradops.add_argument(
        "--gradops_alpha",
        type=float,
        default=DEFAULT_ALPHA,
        help="exponent of the trade-off between tasks: above 0 the dominating tasks gain, below "
        "0 the dominated; useful from -5 to 5 (default: %(default)s, a plain sum of the "
        "deconflicted gradients)",
    )
    recon = parser.add_argument_group("Recon (--arch Recon)")
    recon.add_argument(
        "--recon_k",
        type=int,
        help="how many of the worst layers become task-specific; required with --arch Recon",
    )
    recon.add_argument(
        "--recon_s",
        type=float,
        default=DEFAULT_S,
        help="severity: a conflict counts where the cosine of two tasks' gradients is below it; "
        "a multiple of 0.005 above -1 and up to 0 (default: %(default)s)",
    )
    recon.add_argument(
        "--recon_layers",
        metavar="FILE",
        help="take the layers from this file, a profile written by `libmtl-recon layers export` "
        "or a JSON object {layer: score}, instead of the cache",
    )


def weight_args(params: argparse.Namespace) -> dict[str, Any]:
    """The checked values that ``--weighting GradOPS`` needs.

    Raises:
        UsageError: α is not finite.
    """
    # A script may make its arguments by another parser, which does not know our flags.
    alpha = getattr(params, "gradops_alpha", DEFAULT_ALPHA)
    if not isinstance(alpha, numbers.Real) or not math.isfinite(alpha):
        raise UsageError(
            "--gradops_alpha",
            "must be a finite number",
            alpha,
            "Try values from -5 to 5; 0 is the plain sum of the deconflicted gradients.",
        )
    return {"gradops_alpha": alpha}


def arch_args(params: argparse.Namespace) -> dict[str, Any]:
    """The checked values that ``--arch Recon`` needs.

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
