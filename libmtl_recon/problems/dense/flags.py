"""The flags of dense problems: the network, its training, and the validation images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import torch

from libmtl_recon.errors import ReconError, UsageError, naming
from libmtl_recon.problems.argument_types import positive, whole
from libmtl_recon.problems.networks import NETWORKS, Network, build


def add_flags(own: Any, *, network: str, epochs: int, bs: int) -> None:
    """Add them to a script's group of flags.

    Args:
        own: The group.
        network: The default network, as the other defaults that of the paper.
        epochs: The default number of epochs.
        bs: The default batch size.
    """
    own.add_argument("--epochs", type=whole(1), default=epochs, help="training epochs")
    own.add_argument("--bs", type=whole(2), default=bs, help="batch size")
    own.add_argument(
        "--network",
        choices=[name for name in NETWORKS if name != "resnet18"],  # which has no output per pixel
        default=network,
        help="network (default: %(default)s)",
    )
    own.add_argument(
        "--pretrained", action="store_true", help="start from torchvision's ImageNet weights"
    )
    own.add_argument(
        "--width",
        type=positive,
        default=1.0,
        help="share of the network's channels: 1 for the paper's; 0.125 is suitable for a CPU",
    )
    own.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="scale, crop and mirror training images at random, as the papers' authors do "
        "(default: --augment)",
    )
    own.add_argument(
        "--val_size",
        type=whole(0),
        default=0,
        help="training images that are held out for validation, the same for the same --data_seed",
    )
    own.add_argument(
        "--data_seed",
        type=whole(0, 2**32 - 1),
        default=0,
        help="seed of the validation images",
    )
    own.add_argument(
        "--workers", type=whole(0), default=0, help="processes that read images; 0 for none"
    )


def chosen_network(params: argparse.Namespace, outputs: Mapping[str, int]) -> Network:
    """Return the network that ``--network``, ``--pretrained`` and ``--width`` mean.

    Args:
        params: These flags' values.
        outputs: The channels of each task's output.

    Raises:
        UsageError: The flags cannot be combined.
        ReconError: There are no pretrained weights, and they cannot be downloaded.
    """
    with naming(network="--network", pretrained="--pretrained", width="--width"):
        return build(params.network, outputs, pretrained=params.pretrained, width=params.width)


def divided(params: argparse.Namespace, count: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the images to train on, and of those held out for validation.

    Args:
        params: ``val_size`` and ``data_seed``.
        count: The number of training images.

    Raises:
        ReconError: There are fewer than two images, and batch norms need two.
        UsageError: Fewer than two would be left.
    """
    if count < 2:
        raise ReconError(
            f"The data set has {count} training image, but batch norms need two. Unpack all of it."
        )
    if params.val_size > count - 2:
        raise UsageError(
            "--val_size",
            f"must leave two of the {count} training images",
            params.val_size,
            "Hold out fewer.",
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(params.data_seed))
    return sorted(order[params.val_size :].tolist()), sorted(order[: params.val_size].tolist())
