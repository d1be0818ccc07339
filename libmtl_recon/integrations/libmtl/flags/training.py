"""The flags of training itself, whatever the method."""

from __future__ import annotations

import argparse
from typing import Any

from libmtl_recon.errors import UsageError


def add(parser: argparse.ArgumentParser) -> None:
    """Add the flags to LibMTL's parser."""
    group = parser.add_argument_group("training (with any weighting and architecture)")
    group.add_argument(
        "--recon_amp",
        metavar="bf16",
        help="run the forward pass in bfloat16 where PyTorch's autocast holds that to be safe; "
        "parameters, losses and gradients stay in float32 (default: off)",
    )


def values(params: argparse.Namespace) -> dict[str, Any]:
    """The checked values.

    Raises:
        UsageError: The precision is none that can be trained in.
    """
    # A script may make its arguments by another parser, which does not know our flags.
    precision = getattr(params, "recon_amp", None)
    if precision in (None, "off"):
        return {"recon_amp": None}
    if precision != "bf16":
        raise UsageError(
            "--recon_amp",
            "must be bf16 or off",
            precision,
            "fp16 needs its losses scaled, which no weighting of gradients takes into account; "
            "bf16 has the range of float32 and does not.",
        )
    return {"recon_amp": "bf16"}
