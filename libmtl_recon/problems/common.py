"""What the scripts of this folder share in handing their problem to LibMTL."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import LibMTL.architecture as architecture_method
import LibMTL.weighting as weighting_method
from LibMTL import Trainer
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch.utils.data import DataLoader


def classification(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """LibMTL's ``task_dict`` for tasks that are judged by their accuracy."""
    return {
        task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
        for task in tasks
    }


def methods(params: argparse.Namespace) -> dict[str, Any]:
    """The Trainer's arguments that differ between LibMTL's release and its main branch.

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
    """Train or, with the ``--mode test`` of LibMTL's main branch, only test."""
    if getattr(params, "mode", "train") == "test":
        trainer.test(loaders["test"])
    else:
        parts = loaders["train"], loaders["test"]
        trainer.train(*parts, params.epochs, val_dataloaders=loaders["val"])


def share(text: str) -> float:
    """An argparse type: a number from 0 to below 1."""
    value = -1.0
    with suppress(ValueError):
        value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a share from 0 to below 1, but is {text!r}")
    return value


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: whole numbers from ``low`` to ``high``, or from ``low`` up."""
    rule = f"from {low} up" if high is None else f"from {low} to {high}"

    def read(text: str) -> int:
        value: int | None = None
        with suppress(ValueError):
            value = int(text)
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be a whole number {rule}, but is {text!r}")
        return value

    return read
