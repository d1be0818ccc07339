"""A person's income, marital status and education from a census form, one task each.

Census-Income (KDD) of the GradOPS paper (section 4.1, Appendix B): does the income exceed 50,000
dollars, was the person never married, did the person go to college. The network has two shared
layers of 192 units and one linear layer per task; each task is measured by the area under its ROC
curve (AUC).

The public files are read from the folder census-income in LIBMTL_RECON_DATA (without that
variable, in the user's cache folder): census-income.data and census-income.test, or only one of
them, which is then divided, always the same for the same --data_seed. They come from
https://archive.ics.uci.edu/dataset/117/census+income+kdd.

The defaults are the paper's (Adam, learning rate 1e-4, batches of 1024, 200 epochs):

    python -m libmtl_recon.problems.census_income --weighting GradOPS --gradops_alpha=-3

A trial of a minute on a CPU:

    python -m libmtl_recon.problems.census_income --weighting EW --epochs 5 --lr 1e-3
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # makes LibMTL know GradOPS and Recon

# isort: split
import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from LibMTL.utils import set_device, set_random_seed
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader

from libmtl_recon.problems.argument_types import share, whole
from libmtl_recon.problems.census_income_data import SUBFOLDER, TASKS, People, load, make_loader
from libmtl_recon.problems.common import from_flags, train_or_test
from libmtl_recon.problems.data_folder import data_root


def parse_args() -> argparse.Namespace:
    """Read the command line: LibMTL's flags and this problem's own."""
    own = LibMTL_args.add_argument_group("census_income")
    own.add_argument("--epochs", type=whole(1), default=200, help="training epochs")
    own.add_argument("--bs", type=whole(2), default=1024, help="batch size")
    own.add_argument("--width", type=whole(1), default=192, help="units of each shared layer")
    own.add_argument("--dropout", type=share, default=0.3, help="dropout probability")
    own.add_argument(
        "--data_seed",
        type=whole(0),
        default=0,
        help="seed of the division into training, validation and test data",
    )
    LibMTL_args.set_defaults(lr=1e-4, weight_decay=0.0)  # the paper names no weight decay
    params: argparse.Namespace = LibMTL_args.parse_args()
    return params


def make_loaders(params: argparse.Namespace) -> dict[str, DataLoader[Any]]:
    """Return the loaders of the training, validation and test part.

    Raises:
        ReconError: The data set's files are missing or damaged.
    """
    return {
        part: make_loader(People(records), params.bs, shuffle=part == "train")
        for part, records in load(data_root() / SUBFOLDER, params.data_seed).items()
    }


class MLP(nn.Module):
    """Two hidden layers with ReLU, followed by dropout (Appendix B).

    Args:
        inputs: Number of features of a person.
        width: Units of each layer.
        dropout: The share of the second layer's units that are dropped in training.
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map features ``[B, inputs]`` to representations ``[B, width]``."""
        hidden = torch.relu(self.fc1(x))
        out: Tensor = self.dropout(torch.relu(self.fc2(hidden)))
        return out


class BinaryLoss(AbsLoss):  # type: ignore[misc]  # LibMTL is untyped
    """Binary cross-entropy of logits."""

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Compute the mean over ``[B, 1]`` logits and labels."""
        return nn.functional.binary_cross_entropy_with_logits(pred, gt)


class AUCMetric(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
    """The area under the ROC curve of one pass over the data."""

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Store a batch of logits and labels, ``[B, 1]``."""
        self.record.append((pred.detach().cpu(), gt.cpu()))

    def score_fun(self) -> list[float]:
        """Return the area, from 0 to 1; NaN where the data have one class only."""
        scores, labels = (torch.cat(column).flatten() for column in zip(*self.record, strict=True))
        if bool((labels == labels[0]).all()):
            return [float("nan")]
        return [float(roc_auc_score(labels, scores))]


def task_dict() -> dict[str, dict[str, Any]]:
    """Return LibMTL's description of the three tasks."""
    return {
        task: {
            "metrics": ["AUC"],
            "metrics_fn": AUCMetric(),
            "loss_fn": BinaryLoss(),
            "weight": [1],
        }
        for task in TASKS
    }


def train(params: argparse.Namespace, loaders: Mapping[str, DataLoader[Any]]) -> None:
    """Build LibMTL's Trainer and train."""
    features, _ = loaders["train"].dataset[[0]]
    trainer = Trainer(
        task_dict=task_dict(),
        encoder_class=partial(MLP, features.shape[1], params.width, params.dropout),
        decoders=nn.ModuleDict({task: nn.Linear(params.width, 1) for task in TASKS}),
        **from_flags(params),
    )
    train_or_test(trainer, params, loaders)


def main(params: argparse.Namespace) -> None:
    """Read the data and train."""
    train(params, make_loaders(params))


if __name__ == "__main__":
    arguments = parse_args()
    set_device(arguments.gpu_id)
    set_random_seed(arguments.seed)
    main(arguments)
