"""Trains weightings of LibMTL for a few steps in float64 and writes down where they came.

Run by `test_equal_to_libmtl.py` in processes of its own, with and without the patch: the file to
write, then the weightings' names.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

from small_problem import Encoder as PlainEncoder
from small_problem import batches, make_trainer

# isort: split
import LibMTL
import numpy as np
import torch
from torch import nn

from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.step import cagrad

REP_GRAD = ("GradNorm", "MGDA", "IMTL")
# LibMTL's main branch differentiates for these as if every parameter were reached.
ALL_REACHED = ("Nash_MTL", "FairGrad", "ExcessMTL")


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 6)
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)
        self.unreached = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.two(torch.tanh(self.one(x)))) * self.frozen


def train(name: str, tasks: int, **changes: Any) -> dict[str, Any]:
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)
    trainer = make_trainer(
        name,
        tasks,
        encoder_class=PlainEncoder if name in ALL_REACHED else Encoder,
        optim_param={"optim": "sgd", "lr": 0.05, "weight_decay": 0.01},
        **changes,
    )
    data: Any = [(x.double(), y) for x, y in batches(tasks)]
    if changes["multi_input"]:
        names = [f"t{t}" for t in range(tasks)]
        data = {n: [(x + i, y[n]) for x, y in data] for i, n in enumerate(names)}
    trainer.train(data, data, epochs=2)
    return {
        "weights": torch.as_tensor(trainer.batch_weight),
        **{n: p.detach() for n, p in trainer.model.named_parameters()},
    }


def settings(names: list[str]) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """Iterate over settings: name, weighting, number of tasks, and the Trainer's arguments."""
    main = detect(LibMTL).saves_models
    for name in names:
        # LibMTL's release has a CAGrad for three tasks only.
        for tasks in (3,) if name == "CAGrad" and not main else (2, 4):
            for multi_input in (False, True):
                for rep_grad in (False, True):
                    if (rep_grad and name not in REP_GRAD) != (name == "GradDrop"):
                        continue
                    key = f"{name}, {tasks} tasks, {multi_input=}, {rep_grad=}"
                    given = {"multi_input": multi_input, "rep_grad": rep_grad}
                    yield key, name, tasks, given
    for norm in ("l2", "loss", "loss+") if "MGDA" in names else ():
        given = {"multi_input": False, "rep_grad": False, "weight_args": {"mgda_gn": norm}}
        yield f"MGDA, 4 tasks, {norm=}", "MGDA", 4, given
    for group_type in (1, 2) if main and "GradVac" in names else ():
        arguments = {"GradVac_beta": 0.5, "GradVac_group_type": group_type}
        given = {"multi_input": False, "rep_grad": False, "weight_args": arguments}
        yield f"GradVac, 4 tasks, {group_type=}", "GradVac", 4, given


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    # Where SciPy's solver gives up, ours goes on, and LibMTL's own does not.
    vars(cagrad)["_solves"] = lambda *_: True
    path, *names = sys.argv[1:]
    torch.save({key: train(name, n, **more) for key, name, n, more in settings(names)}, path)
