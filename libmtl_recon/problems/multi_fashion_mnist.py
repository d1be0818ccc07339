"""A handwritten digit and an article of clothing in one image, one task each.

Multi-Fashion+MNIST of the Recon paper: 36x36 images with an MNIST digit at the top left and a
Fashion-MNIST article at the bottom right, each moved by up to 4 pixels, the brighter pixel on top
where they overlap. The paper uses a data set file of earlier work; here the pairs are drawn anew,
always the same for the same --data_seed. No source image is both in the training and in the
validation part, and the test part is made from the two data sets' test images.

The data sets are read from the folder in LIBMTL_RECON_DATA (MNIST/raw and FashionMNIST/raw, as
torchvision lays them out); without that variable torchvision downloads them, once, to the user's
cache folder.

The paper's training (Appendix B.1), which needs a GPU; LibMTL has no schedule with unequal steps,
so the paper's second decay, at epoch 90, is left out:

    python -m libmtl_recon.problems.multi_fashion_mnist --weighting EW --epochs 120 --bs 256 \
        --optim sgd --lr 0.1 --weight_decay 0 --scheduler step --step_size 60 --gamma 0.1

A trial on a CPU, of a few minutes:

    python -m libmtl_recon.problems.multi_fashion_mnist --weighting EW --epochs 3 --bs 256 \
        --optim sgd --lr 0.1 --weight_decay 0 --width 16 --train_size 20000
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # makes LibMTL know GradOPS and Recon

# isort: split
import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from LibMTL import Trainer
from LibMTL.config import LibMTL_args
from LibMTL.utils import set_device, set_random_seed
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import MNIST, FashionMNIST

from libmtl_recon.problems.argument_types import whole
from libmtl_recon.problems.common import classification, from_flags, train_or_test
from libmtl_recon.problems.data_folder import VARIABLE, data_root
from libmtl_recon.problems.networks.resnet18 import FEATURES, ResNet18
from libmtl_recon.problems.pairs import Items, Pairs, make_loader

ITEMS = {"digit": MNIST, "article": FashionMNIST}
# The tasks' names and the items of the image at the top left and at the bottom right.
PAIRS = {
    "digit+article": {"digit": "digit", "article": "article"},
    "digit+digit": {"left": "digit", "right": "digit"},
    "article+article": {"left": "article", "right": "article"},
}
PARTS = ("train", "val", "test")
CLASSES = 10
CANVAS, JITTER = 36, 4
HELD_OUT = 6000  # source images per data set that only the validation part is made from


def parse_args() -> argparse.Namespace:
    """Read the command line: LibMTL's flags and this problem's own."""
    own = LibMTL_args.add_argument_group("multi_fashion_mnist")
    own.add_argument("--epochs", type=whole(1), default=30, help="training epochs")
    own.add_argument("--bs", type=whole(2), default=256, help="batch size")
    own.add_argument(
        "--width",
        type=whole(1),
        default=64,
        help="channels of the first stage: 64 for a ResNet18; 16 is suitable for a CPU",
    )
    own.add_argument(
        "--head",
        choices=("two", "one"),
        default="two",
        help="linear layers per task: two as in the Recon paper, one as in its authors' code",
    )
    own.add_argument(
        "--pair",
        choices=PAIRS,
        default="digit+article",
        help="content of an image: the paper's pair, or two of one kind, as further data sets "
        "for the same network (default: %(default)s)",
    )
    own.add_argument("--train_size", type=whole(2), default=120_000, help="training images")
    own.add_argument("--val_size", type=whole(1), default=10_000, help="validation images")
    own.add_argument("--test_size", type=whole(1), default=20_000, help="test images")
    own.add_argument(
        "--data_seed", type=whole(0), default=0, help="seed of the split and the pairs"
    )
    params: argparse.Namespace = LibMTL_args.parse_args()
    return params


def read_items(source: type[MNIST], *, train: bool) -> Items:
    """Return a data set of torchvision, from disk or downloaded.

    Raises:
        SystemExit: It is not in the folder LIBMTL_RECON_DATA, or it cannot be downloaded.
    """
    given, folder = os.environ.get(VARIABLE), data_root()
    try:
        data = source(folder, train=train, download=not given)
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        # On one line: torchvision's message may be long, but is shown as one paragraph.
        reason = " ".join(str(error).split())
        sys.exit(
            f"multi_fashion_mnist: error: {source.__name__} "
            + (f"is not in {folder}, " if given else f"could not be downloaded to {folder}, ")
            + f"so there is nothing to train on ({reason}). Set the environment variable "
            + f"{VARIABLE} to a folder with {source.__name__}/raw/*-ubyte as torchvision has it"
            + (", or unset it to have the data downloaded." if given else ".")
        )
    return Items(data.data, data.targets)


def make_loaders(params: argparse.Namespace) -> dict[str, DataLoader[Any]]:
    """Return the loaders of the training, validation and test parts."""
    rng = np.random.default_rng(params.data_seed)
    tasks = PAIRS[params.pair]
    first, second = tasks
    parts = {}
    for kind in dict.fromkeys(tasks.values()):
        items = read_items(ITEMS[kind], train=True)
        order = rng.permutation(len(items))
        parts[kind] = {
            "train": items.take(order[HELD_OUT:]),
            "val": items.take(order[:HELD_OUT]),
            "test": read_items(ITEMS[kind], train=False),
        }
    sources = {part: [parts[kind][part] for kind in tasks.values()] for part in PARTS}
    loaders = {}
    for number, (part, (left, right)) in enumerate(sources.items()):
        pairs = Pairs(
            left,
            right,
            (first, second),
            count=getattr(params, f"{part}_size"),
            canvas=CANVAS,
            jitter=JITTER,
            seed=(params.data_seed, number),
        )
        loaders[part] = make_loader(pairs, params.bs, shuffle=part == "train")
    return loaders


def make_head(layers: str) -> nn.Sequential:
    """Return a task's own layers: ReLU and one linear layer, or two with a ReLU between them.

    The paper does not state the width of its first linear layer; here it keeps the 100 features.
    """
    first = [nn.ReLU(), nn.Linear(FEATURES, FEATURES)] if layers == "two" else []
    return nn.Sequential(*first, nn.ReLU(), nn.Linear(FEATURES, CLASSES))


def train(params: argparse.Namespace, loaders: Mapping[str, DataLoader[Any]]) -> None:
    """Build LibMTL's Trainer and train."""
    tasks = tuple(PAIRS[params.pair])
    trainer = Trainer(
        task_dict=classification(tasks),
        encoder_class=partial(ResNet18, params.width),
        decoders=nn.ModuleDict({task: make_head(params.head) for task in tasks}),
        **from_flags(params),
    )
    train_or_test(trainer, params, loaders)


def main(params: argparse.Namespace) -> None:
    """Create the data and train."""
    train(params, make_loaders(params))


if __name__ == "__main__":
    arguments = parse_args()
    set_device(arguments.gpu_id)
    set_random_seed(arguments.seed)
    main(arguments)
