"""Arguments of LibMTL's Trainer that the small problems share, for both LibMTLs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric

# What one of the two LibMTLs does not know, it does not read.
WEIGHT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "CAGrad": {"calpha": 0.5, "rescale": 1},
    "DB_MTL": {"DB_beta": 0.9, "DB_beta_sigma": 0},
    "DWA": {"T": 2.0},
    "ExcessMTL": {"robust_step_size": 1e-2},
    "FAMO": {"FAMO_w_lr": 0.025, "FAMO_w_gamma": 1e-3},
    "FairGrad": {"FairGrad_alpha": 1.0},
    "GradDrop": {"leak": 0.0},
    "GradNorm": {"alpha": 1.5},
    "GradOPS": {"gradops_alpha": -1.0},
    "GradVac": {"beta": 0.5, "GradVac_beta": 0.5, "GradVac_group_type": 0},
    "MGDA": {"mgda_gn": "none"},
    "MoCo": {
        "MoCo_beta": 0.5,
        "MoCo_beta_sigma": 0.5,
        "MoCo_gamma": 0.1,
        "MoCo_gamma_sigma": 0.5,
        "MoCo_rho": 0,
    },
    "MoDo": {"MoDo_gamma": 1e-3, "MoDo_rho": 0.1},
    "Nash_MTL": {"update_weights_every": 1, "optim_niter": 20, "max_norm": 1.0},
    "RLW": {"dist": "Normal"},
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
    "SDMGrad": {"SDMGrad_lamda": 0.3, "SDMGrad_niter": 20},
    "STCH": {"STCH_mu": 1.0, "STCH_warmup_epoch": 1},
    "UPGrad": {"UPGrad_norm_eps": 1e-4, "UPGrad_reg_eps": 1e-4},
}


def classifications(tasks: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The ``task_dict`` of tasks that are measured by their accuracy."""
    shared = {"metrics": ["Acc"], "weight": [1]}
    return {task: {**shared, "metrics_fn": AccMetric(), "loss_fn": CELoss()} for task in tasks}
