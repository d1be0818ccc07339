"""A small LibMTL problem, built in this process."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
from typing import Any

import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import torch
from LibMTL import Trainer
from torch import nn
from trainer_arguments import WEIGHT_ARGUMENTS, classifications

from libmtl_recon.integrations.libmtl.features import detect

Loader = list[tuple[torch.Tensor, dict[str, torch.Tensor]]]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.two(torch.relu(self.one(x))))


def batches(tasks: int, count: int = 4) -> Loader:
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(count):
        x = torch.randn(16, 5, generator=generator)
        found.append((x, {f"t{t}": (x[:, t] > 0).long() for t in range(tasks)}))
    return found


def make_trainer(weighting: str, tasks: int = 2, **changes: Any) -> Any:
    """A Trainer of either LibMTL on this problem; `changes` replace its arguments."""
    torch.manual_seed(0)
    names = [f"t{t}" for t in range(tasks)]
    main = detect(LibMTL).by_name
    given: dict[str, Any] = {
        "task_dict": classifications(names),
        "weighting": weighting if main else vars(weightings)[weighting],
        "architecture": "HPS" if main else architectures.HPS,
        "encoder_class": Encoder,
        "decoders": nn.ModuleDict({name: nn.Linear(6, 2) for name in names}),
        "rep_grad": weighting == "GradDrop",
        "multi_input": False,
        "optim_param": {"optim": "adam", "lr": 1e-2},
        "scheduler_param": None,
        "weight_args": WEIGHT_ARGUMENTS.get(weighting, {}),
        "arch_args": {},
        **({"save_path": None, "load_path": None} if main else {}),
    }
    return changes.pop("trainer_class", Trainer)(**{**given, **changes})
