"""The flags of ``--weighting GradOPS``."""

from __future__ import annotations

import argparse
from typing import Any

from libmtl_recon.errors import UsageError, naming

HOME = "libmtl_recon.integrations.libmtl.weightings.gradops"
DEFAULT_ALPHA = 0.0
DEFAULT_STATIONARY = "stop"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to LibMTL's parser."""
    group = parser.add_argument_group("GradOPS (--weighting GradOPS)")
    group.add_argument(
        "--gradops_alpha",
        type=float,
        default=DEFAULT_ALPHA,
        help="exponent alpha of the trade-off between tasks: above 0 the dominating tasks gain, "
        "below 0 the dominated tasks; useful values are from -5 to 5 (default: %(default)s, the "
        "plain sum of the deconflicted gradients)",
    )
    group.add_argument(
        "--gradops_weights",
        metavar="W,W,...",
        help="static weights of the deconflicted gradients, which replace those computed from "
        "alpha: one per task in the order of the tasks, above 0; they are scaled to a mean of 1",
    )
    group.add_argument(
        "--gradops_stationary",
        metavar="WHAT",
        default=DEFAULT_STATIONARY,
        help="update if all deconflicted gradients are zero, although some direction may "
        "improve all tasks: stop (none, as in the paper) or min_norm (the shortest convex "
        "combination of the gradients) (default: %(default)s)",
    )
    group.add_argument(
        "--gradops_log",
        metavar="FILE",
        help="write the weights, relative speeds and conflict rate of each step to this new "
        ".csv file; `libmtl-recon gradops plot` plots it",
    )
    group.add_argument(
        "--gradops_tensorboard",
        metavar="DIR",
        help="log the same values to this folder for TensorBoard",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """Check the flags; return those that were given, for the weighting's ``backward``.

    Raises:
        UsageError: A value is invalid. The number of static weights is checked once the tasks are
        known.
        ReconError: TensorBoard is requested but not installed.
    """
    from libmtl_recon.weighting.gradops import check_alpha, check_stationary
    from libmtl_recon.weighting.gradops_log import check_log
    from libmtl_recon.weighting.gradops_tensorboard import check_tensorboard

    # A script may create its arguments with another parser, which does not know our flags.
    alpha = getattr(params, "gradops_alpha", DEFAULT_ALPHA)
    check_alpha("--gradops_alpha", alpha)
    found: dict[str, Any] = {"gradops_alpha": alpha}
    stationary = getattr(params, "gradops_stationary", DEFAULT_STATIONARY)
    check_stationary("--gradops_stationary", stationary)
    if stationary != DEFAULT_STATIONARY:
        found["gradops_stationary"] = stationary
    static = getattr(params, "gradops_weights", None)
    if static is not None:
        found["gradops_weights"] = _static(static, alpha)
    log = getattr(params, "gradops_log", None)
    if log is not None:
        check_log("--gradops_log", log)
        found["gradops_log"] = log
    folder = getattr(params, "gradops_tensorboard", None)
    if folder is not None:
        check_tensorboard("--gradops_tensorboard", folder)
        found["gradops_tensorboard"] = folder
    return found


def _static(given: Any, alpha: float) -> list[float]:
    from libmtl_recon.weighting.gradops import check_static

    try:
        weights = [float(part) for part in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError) as error:
        raise UsageError(
            "--gradops_weights",
            "must be a comma-separated list of numbers",
            given,
            "Write them as, for example, 0.5,1,1.5.",
        ) from error
    with naming(alpha="--gradops_alpha"):
        check_static("--gradops_weights", weights, len(weights), alpha)
    return weights
