"""The flags of problems on images: the network, its training, and processes that read images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from libmtl_recon.errors import naming
from libmtl_recon.problems.argument_types import positive, whole
from libmtl_recon.problems.networks import Network, build


def add_network_flags(
    own: Any, networks: Sequence[str], *, network: str, epochs: int, bs: int, narrow: float
) -> None:
    """Add them to a script's group of flags.

    Args:
        own: The group.
        networks: The networks to choose from.
        network: The default network, as the other defaults that of the paper.
        epochs: The default number of epochs.
        bs: The default batch size.
        narrow: A width that is suitable for a CPU, for the help.
    """
    own.add_argument("--epochs", type=whole(1), default=epochs, help="training epochs")
    own.add_argument("--bs", type=whole(2), default=bs, help="batch size")
    own.add_argument(
        "--network", choices=networks, default=network, help="network (default: %(default)s)"
    )
    own.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    own.add_argument(
        "--width",
        type=positive,
        default=1.0,
        help=f"share of the network's channels: 1 for the paper's; {narrow} is suitable for a CPU",
    )
    own.add_argument(
        "--workers", type=whole(0), default=0, help="processes that read images; 0 for none"
    )


def chosen_network(params: argparse.Namespace, outputs: Mapping[str, int]) -> Network:
    """Return the network that ``--network``, ``--pretrained`` and ``--width`` mean.

    Args:
        params: These flags' values.
        outputs: The number of each task's outputs.

    Raises:
        UsageError: The flags cannot be combined.
        ReconError: There are no pretrained weights, and they cannot be downloaded.
    """
    with naming(network="--network", pretrained="--pretrained", width="--width"):
        return build(params.network, outputs, pretrained=params.pretrained, width=params.width)
