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
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import nn

from libmtl_recon.plugin.features import detect

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
    weight_args = {
        "DWA": {"T": 2.0},
        "GradNorm": {"alpha": 1.5},
        "MGDA": {"mgda_gn": "none"},
        "GradVac": {"beta": 0.5, "GradVac_beta": 0.5, "GradVac_group_type": 0},
        "CAGrad": {"calpha": 0.5, "rescale": 1},
        "GradDrop": {"leak": 0.0},
        "RLW": {"dist": "Normal"},
        "GradOPS": {"gradops_alpha": -1.0},
        "RotoGrad": {
            "rotograd_mode": "full",
            "rotograd_lr": 5e-3,
            "rotograd_decay": 0.99,
            "rotograd_burn_in": 2,
            "rotograd_map": "cayley",
            "rotograd_every": 1,
            "rotograd_size": None,
            "rotograd_alpha": 1.5,
        },
        "Nash_MTL": {"update_weights_every": 1, "optim_niter": 20, "max_norm": 1.0},
        "MoCo": {
            "MoCo_beta": 0.5,
            "MoCo_beta_sigma": 0.5,
            "MoCo_gamma": 0.1,
            "MoCo_gamma_sigma": 0.5,
            "MoCo_rho": 0,
        },
        "DB_MTL": {"DB_beta": 0.9, "DB_beta_sigma": 0},
        "STCH": {"STCH_mu": 1.0, "STCH_warmup_epoch": 1},
        "ExcessMTL": {"robust_step_size": 1e-2},
        "FairGrad": {"FairGrad_alpha": 1.0},
        "FAMO": {"FAMO_w_lr": 0.025, "FAMO_w_gamma": 1e-3},
        "MoDo": {"MoDo_gamma": 1e-3, "MoDo_rho": 0.1},
        "SDMGrad": {"SDMGrad_lamda": 0.3, "SDMGrad_niter": 20},
        "UPGrad": {"UPGrad_norm_eps": 1e-4, "UPGrad_reg_eps": 1e-4},
    }
    main = detect(LibMTL).by_name
    given: dict[str, Any] = {
        "task_dict": {
            name: {
                "metrics": ["Acc"],
                "metrics_fn": AccMetric(),
                "loss_fn": CELoss(),
                "weight": [1],
            }
            for name in names
        },
        "weighting": weighting if main else vars(weightings)[weighting],
        "architecture": "HPS" if main else architectures.HPS,
        "encoder_class": Encoder,
        "decoders": nn.ModuleDict({name: nn.Linear(6, 2) for name in names}),
        "rep_grad": weighting == "GradDrop",
        "multi_input": False,
        "optim_param": {"optim": "adam", "lr": 1e-2},
        "scheduler_param": None,
        "weight_args": weight_args.get(weighting, {}),
        "arch_args": {},
        **({"save_path": None, "load_path": None} if main else {}),
    }
    return changes.pop("trainer_class", Trainer)(**{**given, **changes})
