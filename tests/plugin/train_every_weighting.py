"""Trains every weighting of LibMTL for a few steps in float64 and writes down where it came.

Run by `test_fast_gradients.py` in processes of its own, with and without the mend.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from small_problem import batches, make_trainer

# isort: split
import LibMTL.weighting as weightings
import numpy as np
import torch
from torch import nn

NAMES = [name for name in weightings.__all__ if not name.startswith(("Abs", "GradOPS"))]
NO_REP_GRAD = ("EW", "UW", "DWA", "GLS", "RLW", "PCGrad", "GradVac", "CAGrad")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 6)
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)
        self.unreached = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.two(torch.tanh(self.one(x)))) * self.frozen


def train(name: str, tasks: int, *, multi_input: bool, rep_grad: bool) -> dict[str, Any]:
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)
    trainer = make_trainer(
        name,
        tasks,
        encoder_class=Encoder,
        multi_input=multi_input,
        rep_grad=rep_grad,
        optim_param={"optim": "sgd", "lr": 0.05, "weight_decay": 0.01},
    )
    data: Any = [(x.double(), y) for x, y in batches(tasks)]
    if multi_input:
        names = [f"t{t}" for t in range(tasks)]
        data = {n: [(x + i, y[n]) for x, y in data] for i, n in enumerate(names)}
    weights = trainer.train(data, data, epochs=2, return_weight=True)
    model = trainer.model
    return {
        "weights": torch.as_tensor(weights),
        **{n: p.detach() for n, p in model.named_parameters()},
    }


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    found = {}
    for name in NAMES:
        for tasks in (2, 4):
            for multi_input in (False, True):
                for rep_grad in (False, True):
                    if (rep_grad and name in NO_REP_GRAD) or (not rep_grad and name == "GradDrop"):
                        continue
                    key = f"{name}, {tasks} tasks, {multi_input=}, {rep_grad=}"
                    found[key] = train(name, tasks, multi_input=multi_input, rep_grad=rep_grad)
    torch.save(found, sys.argv[1])
