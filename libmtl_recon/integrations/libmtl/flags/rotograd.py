"""The flags of ``--weighting RotoGrad``."""

from __future__ import annotations

import argparse
import math
import numbers
from typing import Any

from libmtl_recon.errors import UsageError, naming

HOME = "libmtl_recon.integrations.libmtl.weightings.rotograd"
# The default rate of the rotations' Adam: the lower of this and half the network's.
DEFAULT_LR = 5e-4
DEFAULT_DECAY = 0.9999
# The defaults of the values that RotoGradSettings checks.
_SETTINGS: dict[str, Any] = {
    "mode": "full",
    "burn_in": 20,
    "map": "cayley",
    "every": 1,
    "size": None,
    "alpha": 1.5,
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to LibMTL's parser."""
    group = parser.add_argument_group("RotoGrad (--weighting RotoGrad)")
    group.add_argument(
        "--rotograd_mode",
        metavar="MODE",
        default=_SETTINGS["mode"],
        help="full: one rotation per task, and a common magnitude for all gradients; rotate: "
        "only the rotations; scale: only the magnitude; gradnorm: rotations and GradNorm's "
        "learned weights, as in the first version of the paper (default: %(default)s)",
    )
    group.add_argument(
        "--rotograd_lr",
        type=float,
        metavar="LR",
        help="learning rate of the rotations, which have their own Adam optimiser; at most the "
        f"network's --lr (default: {DEFAULT_LR:g}, or half of --lr if that is lower)",
    )
    group.add_argument(
        "--rotograd_decay",
        type=float,
        metavar="D",
        default=DEFAULT_DECAY,
        help="factor of that learning rate per step, below 1: the rotations must learn more "
        "slowly than the network throughout the run (default: %(default)s)",
    )
    group.add_argument(
        "--rotograd_burn_in",
        type=int,
        metavar="N",
        default=_SETTINGS["burn_in"],
        help="the initial norms and losses, with which later ones are compared, are taken in "
        "the first step and again after N steps (default: %(default)s)",
    )
    group.add_argument(
        "--rotograd_every",
        type=int,
        metavar="N",
        default=_SETTINGS["every"],
        help="update the rotations every N steps, at an N-th of the cost (default: %(default)s)",
    )
    group.add_argument(
        "--rotograd_size",
        type=int,
        metavar="M",
        help="rotate only the first M channels of the representation (default: all)",
    )
    group.add_argument(
        "--rotograd_map",
        metavar="MAP",
        default=_SETTINGS["map"],
        help="parametrisation of the rotations: cayley, or matrix_exp, which costs ten times as "
        "much (default: %(default)s)",
    )
    group.add_argument(
        "--rotograd_alpha",
        type=float,
        metavar="A",
        default=_SETTINGS["alpha"],
        help="GradNorm's exponent, with --rotograd_mode gradnorm: above 0 the tasks that learn "
        "slowly get larger gradients (default: %(default)s)",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """Check the flags and return the values for the weighting's ``backward``.

    Raises:
        UsageError: A value is invalid.
    """
    from libmtl_recon.weighting.rotograd_settings import RotoGradSettings

    # A script may create its arguments with another parser, which does not know our flags.
    settings = {
        name: getattr(params, f"rotograd_{name}", default) for name, default in _SETTINGS.items()
    }
    with naming(**{name: f"--rotograd_{name}" for name in settings}):
        RotoGradSettings(**settings)
    found = {f"rotograd_{name}": value for name, value in settings.items()}
    lr = getattr(params, "rotograd_lr", None)
    # A rate that is not known, or is still to be warmed up, cannot be compared here. Any rate is
    # compared before the training, when the rates of all its epochs are known.
    known: Any = getattr(params, "lr", None)
    network = float(known) if _is_positive(known) else math.inf
    found["rotograd_lr"] = min(DEFAULT_LR, network / 2) if lr is None else lr
    found["rotograd_decay"] = getattr(params, "rotograd_decay", DEFAULT_DECAY)
    _check_lr(found["rotograd_lr"], network)
    _check_decay(found["rotograd_decay"])
    return found


def idle(params: Any) -> dict[str, str]:
    """Return why some of the flags have no effect with ``--weighting RotoGrad``, by dest."""
    mode = getattr(params, "rotograd_mode", _SETTINGS["mode"])
    no_rotations = ("lr", "decay", "map", "every", "size") if mode == "scale" else ()
    no_magnitude = ("burn_in",) if mode == "rotate" else ()
    no_learned_weights = ("alpha",) if mode != "gradnorm" else ()
    return {
        f"rotograd_{name}": f"with --rotograd_mode {mode}"
        for name in (*no_rotations, *no_magnitude, *no_learned_weights)
    }


def _check_lr(lr: Any, network: float) -> None:
    if not _is_positive(lr) or lr > network:
        raise UsageError(
            "--rotograd_lr",
            f"must be above 0 and at most the network's --lr, {network:g}: RotoGrad converges if "
            "the rotations learn more slowly than the network",
            lr,
            "Half of --lr is a good initial choice.",
        )


def _check_decay(decay: Any) -> None:
    if not _is_positive(decay) or decay >= 1:
        raise UsageError(
            "--rotograd_decay",
            "must be a number above 0 and below 1: RotoGrad converges if the learning rate of "
            "the rotations becomes negligible compared with that of the network",
            decay,
            "Try 0.9999 for about ten thousand steps, and a number closer to 1 for more.",
        )


def _is_positive(value: Any) -> bool:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0
