"""A LibMTL problem whose task gradients are given: one training step on each of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from small_problem import make_trainer

# isort: split
import numpy as np
import torch
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from torch import Tensor, nn

WIDTH = 4


class Dot(AbsLoss):  # type: ignore[misc]
    """A number + the given gradient times the shared parameters, which start at zero."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.first = first

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        return (pred * gt).sum() + self.first


class Nothing(AbsMetric):  # type: ignore[misc]
    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        self.bs.append(1)

    def score_fun(self) -> list[float]:
        return [1.0]


class Encoder(nn.Module):
    trains = True

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Parameter(torch.zeros(WIDTH), requires_grad=self.trains)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared + 0 * x


class FrozenEncoder(Encoder):
    trains = False


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, z: Tensor) -> Tensor:
        return z + self.own


@dataclass
class Stepped:
    """What one step of a weighting made of the gradients."""

    update: Tensor | None
    decoders: list[Tensor]
    weights: Any


def step(
    weighting: str,
    rows: Tensor,
    *,
    frozen: bool = False,
    losses: Sequence[float] = (1.0, 1.0, 1.0),
    **arguments: Any,
) -> Stepped:
    """The gradients of one step; of the second epoch's, where the first is another (GradNorm).

    Args:
        weighting: Its name.
        rows: ``[T, 4]``, the task gradients, of the default dtype.
        frozen: Whether the shared parameters are.
        losses: The tasks' losses.
        **arguments: Replace ``weight_args``.
    """
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)
    names = [f"t{index}" for index in range(len(rows))]
    trainer = make_trainer(
        weighting,
        len(rows),
        encoder_class=FrozenEncoder if frozen else Encoder,
        decoders=nn.ModuleDict({name: Decoder() for name in names}),
        task_dict={
            name: {"metrics": ["-"], "metrics_fn": Nothing(), "loss_fn": Dot(loss), "weight": [1]}
            for name, loss in zip(names, losses, strict=False)
        },
        # So small that the second epoch's losses are those of the first.
        optim_param={"optim": "sgd", "lr": 1e-60},
        **({"weight_args": arguments} if arguments else {}),
    )
    data = [(torch.zeros(1, WIDTH), {n: row[None] for n, row in zip(names, rows, strict=True)})]
    trainer.train(data, data, epochs=2 if weighting == "GradNorm" else 1)
    shared, model = trainer.model.encoder.shared.grad, trainer.model
    return Stepped(shared, [model.decoders[n].own.grad for n in names], trainer.batch_weight)
