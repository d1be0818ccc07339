"""The flags of dense problems: the network, its training, and the validation images."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.problems.argument_types import whole
from libmtl_recon.problems.network_flags import add_network_flags
from libmtl_recon.problems.networks import NETWORKS


def add_flags(own: Any, *, network: str, epochs: int, bs: int) -> None:
    """Add them to a script's group of flags.

    Args:
        own: The group.
        network: The default network, as the other defaults that of the paper.
        epochs: The default number of epochs.
        bs: The default batch size.
    """
    networks = [name for name in NETWORKS if name != "resnet18"]  # which has no output per pixel
    add_network_flags(own, networks, network=network, epochs=epochs, bs=bs, narrow=0.125)
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
