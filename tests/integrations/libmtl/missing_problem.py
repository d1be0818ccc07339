"""A small LibMTL problem of regressions, in which samples lack labels; for both LibMTLs."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
from collections.abc import Sequence
from typing import Any

import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import torch
from LibMTL import Trainer
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from torch import Tensor, nn
from trainer_arguments import WEIGHT_ARGUMENTS

from libmtl_recon import Masked
from libmtl_recon.integrations.libmtl.features import detect

MAIN = detect(LibMTL).saves_models
SAMPLES = 6
NAN = float("nan")

# For each batch and task, which of the samples have the label.
ALL, SOME, ONE, NONE = "111111", "110100", "000010", "000000"
PATTERN = [
    (ALL, SOME, ALL),
    (SOME, NONE, ALL),
    (NONE, ONE, SOME),
    (NONE, SOME, NONE),
    (NONE, NONE, NONE),
    (ALL, ALL, ALL),
    (SOME, ALL, NONE),
]


class SquaredError(AbsLoss):  # type: ignore[misc]
    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        return (pred - gt).square().mean()


class AbsoluteError(AbsMetric):  # type: ignore[misc]
    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        self.record.append((pred - gt).abs().mean(dim=1).sum().item())
        self.bs.append(len(pred))

    def score_fun(self) -> list[float]:
        return [sum(self.record) / sum(self.bs)]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.two(torch.tanh(self.one(x))))


def names(tasks: int) -> list[str]:
    return [f"t{t}" for t in range(tasks)]


def masks(pattern: Sequence[Sequence[str]]) -> list[list[Tensor]]:
    return [[torch.tensor([c == "1" for c in one]) for one in batch] for batch in pattern]


def batches(pattern: Sequence[Sequence[str]], style: str = "nan") -> Any:
    """The data; labels are missing by ``nan``, by a ``mask``, or not at all (``full``)."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for batch in masks(pattern):
        x = torch.randn(SAMPLES, 5, generator=generator, dtype=torch.float64)
        x = x.to(torch.get_default_dtype())
        labels: dict[str, Any] = {}
        for task, mask in zip(names(len(batch)), batch, strict=True):
            # No two tasks want the same, and the first two are nearly opposite.
            place = int(task[1:])
            y = torch.stack([x[:, 0] * (-1) ** place, x[:, place]], dim=1)
            labels[task] = y
            if style == "nan":
                labels[task] = y.masked_fill(~mask[:, None], NAN)
            elif style == "mask":
                labels[task] = Masked(y.masked_fill(~mask[:, None], 1e6), mask)
        found.append((x, labels))
    return found


def per_task(data: Any) -> Any:
    """The same data for ``multi_input``."""
    return {task: [(x, y[task]) for x, y in data] for task in data[0][1]}


def make_trainer(weighting: str, tasks: int = 3, arch: str = "HPS", **changes: Any) -> Any:
    """A Trainer of the installed LibMTL on this problem; `changes` replace its arguments."""
    torch.manual_seed(0)
    arguments = {**WEIGHT_ARGUMENTS, "DB_MTL": {"DB_beta": 0.9, "DB_beta_sigma": 0.5}}
    given: dict[str, Any] = {
        "task_dict": {
            name: {
                "metrics": ["MAE"],
                "metrics_fn": AbsoluteError(),
                "loss_fn": SquaredError(),
                "weight": [0],
            }
            for name in names(tasks)
        },
        "weighting": weighting if MAIN else vars(weightings)[weighting],
        "architecture": arch if MAIN else vars(architectures)[arch],
        "encoder_class": Encoder,
        "decoders": nn.ModuleDict({name: nn.Linear(4, 2) for name in names(tasks)}),
        "rep_grad": weighting == "GradDrop",
        "multi_input": False,
        "optim_param": {"optim": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        "scheduler_param": None,
        "weight_args": arguments.get(weighting, {}),
        "arch_args": {},
    }
    return changes.pop("trainer_class", Trainer)(**{**given, **changes})


def parameters(trainer: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
