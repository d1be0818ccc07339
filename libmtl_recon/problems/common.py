"""Common functions with which the scripts of this folder pass their problem to LibMTL."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import LibMTL.architecture as architecture_method
import LibMTL.weighting as weighting_method
import numpy as np
from LibMTL import Trainer
from LibMTL.config import prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch.utils.data import DataLoader


def classification(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return LibMTL's ``task_dict`` for tasks that are measured by their accuracy."""
    return {
        task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
        for task in tasks
    }


def from_flags(params: argparse.Namespace) -> dict[str, Any]:
    """Return the Trainer's arguments that LibMTL's flags set."""
    kwargs, optim_param, scheduler_param = prepare_args(params)
    return {
        "rep_grad": params.rep_grad,
        "multi_input": params.multi_input,
        "optim_param": optim_param,
        "scheduler_param": scheduler_param,
        **methods(params),
        **kwargs,
    }


def methods(params: argparse.Namespace) -> dict[str, Any]:
    """Return the Trainer's arguments that differ between LibMTL's release and its main branch.

    The release takes classes; the main branch takes their names, and paths for checkpoints.
    """
    if "save_path" in inspect.signature(Trainer.__init__).parameters:
        return {
            "weighting": params.weighting,
            "architecture": params.arch,
            "save_path": params.save_path,
            "load_path": params.load_path,
        }
    return {
        "weighting": weighting_method.__dict__[params.weighting],
        "architecture": architecture_method.__dict__[params.arch],
    }


def train_or_test(
    trainer: Trainer, params: argparse.Namespace, loaders: Mapping[str, DataLoader[Any]]
) -> None:
    """Train or, with the ``--mode test`` of LibMTL's main branch, only test.

    Args:
        trainer: LibMTL's.
        params: The command line.
        loaders: Of the parts ``"train"`` and ``"test"``, and of ``"val"``, if there is one.
    """
    # LibMTL looks for the epoch that improves most over the first one, of which a score may be 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        if getattr(params, "mode", "train") == "test":
            trainer.test(loaders["test"])
        else:
            parts = loaders["train"], loaders["test"]
            trainer.train(*parts, params.epochs, val_dataloaders=loaders.get("val"))
