"""The flags of training, for all methods."""

from __future__ import annotations

import argparse
from typing import Any

from libmtl_recon.errors import UsageError

# Of :func:`libmtl_recon.gradients.recording`, which is not imported for a parser.
WAYS = ("auto", "stored", "ghost")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to LibMTL's parser."""
    group = parser.add_argument_group("training (with any weighting and architecture)")
    group.add_argument(
        "--recon_amp",
        metavar="bf16",
        help="run the forward pass in bfloat16 where PyTorch's autocast considers it safe; "
        "parameters, losses and gradients stay in float32 (default: off)",
    )
    group.add_argument(
        "--recon_gradients",
        metavar="WAY",
        default="auto",
        help="how weightings and scoring compute the inner products of the tasks' gradients: "
        "stored keeps each task's gradient of all shared parameters; ghost keeps none, and "
        "computes the update with one backward pass; auto uses the faster method for each layer "
        "(default: auto; libmtl-recon doctor SCRIPT shows which)",
    )
    group.add_argument(
        "--recon_sync_bn",
        metavar="on|off",
        default="on",
        help="under torchrun: batch norms use the statistics of the whole batch, as in one "
        "process (on), or of each rank's part of it (off, which sends less data and changes "
        "training); no effect in one process (default: on)",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """Check the flags and return their values.

    Raises:
        UsageError: The precision, the method or the value for batch norms is not one of those
        supported.
    """
    return {
        "recon_amp": _precision(params),
        "recon_gradients": _way(params),
        "recon_sync_bn": _sync_bn(params),
    }


def _sync_bn(params: argparse.Namespace) -> str:
    wanted = getattr(params, "recon_sync_bn", None) or "on"
    if wanted not in ("on", "off"):
        raise UsageError("--recon_sync_bn", "must be on or off", wanted, "The default is on.")
    return str(wanted)


def _way(params: argparse.Namespace) -> str:
    way = getattr(params, "recon_gradients", None) or "auto"
    if way not in WAYS:
        raise UsageError(
            "--recon_gradients", f"must be one of {', '.join(WAYS)}", way, "The default is auto."
        )
    return str(way)


def _precision(params: argparse.Namespace) -> str | None:
    # A script may create its arguments with another parser, which does not know our flags.
    precision = getattr(params, "recon_amp", None)
    if precision in (None, "off"):
        return None
    if precision != "bf16":
        raise UsageError(
            "--recon_amp",
            "must be bf16 or off",
            precision,
            "fp16 requires scaled losses, which weightings of gradients do not support; bf16 "
            "has the range of float32 and needs no scaling.",
        )
    return "bf16"
