"""Two overlapping handwritten digits in one image, one task each.

The digits are the real ones included in scikit-learn (1797 images of 8x8 pixels), so nothing is
downloaded. One digit is at the top left, the other at the bottom right, and they overlap.
No source digit occurs in two of the training, validation and test parts.

    python -m libmtl_recon.problems.multidigits --weighting EW --arch HPS

The network is narrow, so that the tasks compete for its capacity: with all layers shared it is
clearly worse at both tasks than two networks of its size, one per task.
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # makes LibMTL know GradOPS and Recon

# isort: split
import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args
from LibMTL.utils import set_device, set_random_seed
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

from libmtl_recon.problems.argument_types import share, whole
from libmtl_recon.problems.common import classification, from_flags, train_or_test
from libmtl_recon.problems.pairs import Items, Pairs, make_loader

TASKS = ("first", "second")
DIGIT, CLASSES = 8, 10
# The source digits of each part: the first 1000 of the shuffled data set, the next 400, the rest.
PARTS = {"train": slice(0, 1000), "val": slice(1000, 1400), "test": slice(1400, None)}


def parse_args() -> argparse.Namespace:
    """Read the command line: LibMTL's flags and this problem's own."""
    own = LibMTL_args.add_argument_group("multidigits")
    own.add_argument("--epochs", type=whole(1), default=10, help="training epochs")
    own.add_argument("--bs", type=whole(2), default=256, help="batch size")
    own.add_argument("--width", type=whole(1), default=4, help="channels of the first stage")
    own.add_argument(
        "--shift", type=whole(0, DIGIT), default=3, help="distance between the digits in pixels"
    )
    own.add_argument("--train_size", type=whole(2), default=4000, help="training images")
    own.add_argument("--val_size", type=whole(1), default=2000, help="validation images")
    own.add_argument("--test_size", type=whole(1), default=2000, help="test images")
    own.add_argument(
        "--data_seed", type=whole(0), default=0, help="seed of the split and the pairs"
    )
    own.add_argument(
        "--missing",
        type=share,
        default=0.0,
        help="share of the training labels to remove, independently for each task",
    )
    # LibMTL's own flags, with which this network learns fast and converges stably.
    LibMTL_args.set_defaults(lr=0.01, weight_decay=0.0, scheduler="step", step_size=4, gamma=0.3)
    params: argparse.Namespace = LibMTL_args.parse_args()
    return params


def split_digits(seed: int) -> dict[str, Items]:
    """Return scikit-learn's digits, shuffled and divided; no digit is in two parts."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    everything = Items(
        torch.from_numpy(digits.images.astype(np.uint8)), torch.from_numpy(digits.target)
    )
    return {part: everything.take(order[places]) for part, places in PARTS.items()}


def make_loaders(params: argparse.Namespace) -> dict[str, DataLoader[Any]]:
    """Return a loader for each part, which draws its pairs from that part's digits alone."""
    loaders = {}
    for number, (part, digits) in enumerate(split_digits(params.data_seed).items()):
        pairs = Pairs(
            digits,
            digits,
            TASKS,
            count=getattr(params, f"{part}_size"),
            canvas=DIGIT + params.shift,
            brightest=16,
            missing=params.missing if part == "train" else 0.0,
            seed=(params.data_seed, number),
        )
        loaders[part] = make_loader(pairs, params.bs, shuffle=part == "train")
    return loaders


class Block(nn.Module):
    """Two convolutions with a residual connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, H, W]`` to ``[B, outputs, H/2, W/2]``."""
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A small residual net of 13 layers, counting batch norms.

    Args:
        width: Channels of the first stage; each further stage has twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.block1 = Block(width, 2 * width)
        self.block2 = Block(2 * width, 4 * width)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(16 * width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[B, 1, H, W]`` to representations ``[B, 4 width]``."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.pool(self.block2(self.block1(x)))
        return torch.relu(self.fc(x.flatten(1)))


def main(params: argparse.Namespace) -> None:
    """Build LibMTL's Trainer and train."""
    trainer = Trainer(
        task_dict=classification(TASKS),
        encoder_class=partial(SmallResNet, params.width),
        decoders=nn.ModuleDict({task: nn.Linear(4 * params.width, CLASSES) for task in TASKS}),
        **from_flags(params),
    )
    loaders = make_loaders(params)
    train_or_test(trainer, params, loaders)


if __name__ == "__main__":
    arguments = parse_args()
    set_device(arguments.gpu_id)
    set_random_seed(arguments.seed)
    main(arguments)
