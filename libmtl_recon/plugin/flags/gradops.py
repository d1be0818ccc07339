"""The flags of ``--weighting GradOPS``."""

from __future__ import annotations

import argparse
import math
import numbers
from typing import Any

from libmtl_recon.errors import UsageError

HOME = "libmtl_recon.weighting.libmtl.gradops"
DEFAULT_ALPHA = 0.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to LibMTL's parser."""
    group = parser.add_argument_group("GradOPS (--weighting GradOPS)")
    group.add_argument(
        "--gradops_alpha",
        type=float,
        default=DEFAULT_ALPHA,
        help="exponent of the trade-off between tasks: above 0 the dominating tasks gain, below "
        "0 the dominated; useful from -5 to 5 (default: %(default)s, a plain sum of the "
        "deconflicted gradients)",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """The checked values that the weighting's ``backward`` gets.

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
