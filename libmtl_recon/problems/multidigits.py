"""Two overlapping handwritten digits in one image; a task for each.

The digits are the real ones that come with scikit-learn (1797 images of 8x8 pixels), so nothing
is downloaded. One digit stands at the top left, the other at the bottom right, and they overlap.
No source digit occurs in two of the training, validation and test parts.

    python -m libmtl_recon.problems.multidigits --weighting EW --arch HPS
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # makes LibMTL know GradOPS and Recon

# isort: split
import argparse
import inspect

import LibMTL.architecture as architecture_method
import LibMTL.weighting as weighting_method
import numpy as np
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.utils import set_device, set_random_seed
from sklearn.datasets import load_digits
from torch import nn

TASKS = ("first", "second")
DIGIT, CLASSES = 8, 10


def parse_args() -> argparse.Namespace:
    """Read the command line: LibMTL's flags and this problem's own."""
    own = LibMTL_args.add_argument_group("multidigits")
    own.add_argument("--epochs", type=int, default=15, help="training epochs")
    own.add_argument("--bs", type=int, default=128, help="batch size")
    own.add_argument("--width", type=int, default=6, help="channels of the first stage")
    own.add_argument("--shift", type=int, default=4, help="pixels between the two digits, 1 to 8")
    own.add_argument("--pairs", type=int, default=4000, help="training images")
    own.add_argument("--data_seed", type=int, default=0, help="seed of the split and the pairs")
    LibMTL_args.set_defaults(lr=3e-3, weight_decay=0.0)
    params = LibMTL_args.parse_args()
    for name in ("epochs", "bs", "width", "pairs"):
        if getattr(params, name) < 1:
            LibMTL_args.error(f"--{name} must be at least 1, but is {getattr(params, name)}")
    if not 1 <= params.shift <= DIGIT:
        LibMTL_args.error(f"--shift must be from 1 to {DIGIT} pixels, but is {params.shift}")
    return params


def compose(images: np.ndarray, labels: np.ndarray, count: int, shift: int, seed: int):
    """Draw pairs of digits and lay the second over the first, brightest pixel on top."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(len(images), size=(2, count))
    size = DIGIT + shift
    canvas = np.zeros((count, 1, size, size), np.float32)
    canvas[:, 0, :DIGIT, :DIGIT] = images[first]
    corner = canvas[:, 0, shift:, shift:]
    np.maximum(corner, images[second], out=corner)
    targets = {"first": labels[first], "second": labels[second]}
    return torch.from_numpy(canvas), {t: torch.from_numpy(y).long() for t, y in targets.items()}


class Batches:
    """A data set that fits in memory, in batches: shuffled anew each pass if for training."""

    def __init__(self, images, labels, size: int, shuffle: bool) -> None:
        self.images, self.labels, self.size, self.shuffle = images, labels, size, shuffle

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __iter__(self):
        count = len(self.images)
        order = torch.randperm(count) if self.shuffle else torch.arange(count)
        for chosen in order.split(self.size):
            yield self.images[chosen], {task: y[chosen] for task, y in self.labels.items()}


def make_loaders(params: argparse.Namespace) -> dict[str, Batches]:
    """The three parts; each draws its pairs from source digits of its own."""
    digits = load_digits()
    order = np.random.default_rng(params.data_seed).permutation(len(digits.images))
    images = (digits.images[order] / 16).astype(np.float32)
    labels = digits.target[order]
    parts = {"train": (0, 1000, params.pairs), "val": (1000, 1400, 2000), "test": (1400, 1797, 2000)}
    loaders = {}
    for index, (part, (start, end, count)) in enumerate(parts.items()):
        seed = 3 * params.data_seed + index
        data = compose(images[start:end], labels[start:end], count, params.shift, seed)
        loaders[part] = Batches(*data, params.bs, shuffle=part == "train")
    return loaders


class Block(nn.Module):
    """Two convolutions around which the input is added again."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def make_encoder_class(width: int) -> type[nn.Module]:
    """LibMTL builds the encoder itself and passes it no arguments: the width is fixed here."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, width, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.block1 = Block(width, 2 * width, 2)
            self.block2 = Block(2 * width, 4 * width, 2)
            self.pool = nn.AdaptiveAvgPool2d(2)
            self.fc = nn.Linear(16 * width, 4 * width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.bn1(self.conv1(x)))
            x = self.pool(self.block2(self.block1(x)))
            return torch.relu(self.fc(x.flatten(1)))

    return Encoder


def main(params: argparse.Namespace) -> None:
    """Build LibMTL's Trainer and train."""
    kwargs, optim_param, scheduler_param = prepare_args(params)
    task_dict = {
        task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
        for task in TASKS
    }
    decoders = nn.ModuleDict({task: nn.Linear(4 * params.width, CLASSES) for task in TASKS})
    weighting, architecture = params.weighting, params.arch
    # LibMTL's release takes classes here, its main branch names.
    if "save_path" not in inspect.signature(Trainer.__init__).parameters:
        weighting = weighting_method.__dict__[weighting]
        architecture = architecture_method.__dict__[architecture]
    trainer = Trainer(
        task_dict=task_dict,
        weighting=weighting,
        architecture=architecture,
        encoder_class=make_encoder_class(params.width),
        decoders=decoders,
        rep_grad=params.rep_grad,
        multi_input=params.multi_input,
        optim_param=optim_param,
        scheduler_param=scheduler_param,
        **kwargs,
    )
    loaders = make_loaders(params)
    trainer.train(loaders["train"], loaders["test"], params.epochs, val_dataloaders=loaders["val"])


if __name__ == "__main__":
    arguments = parse_args()
    set_device(arguments.gpu_id)
    set_random_seed(arguments.seed)
    main(arguments)
