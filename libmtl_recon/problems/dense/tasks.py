"""LibMTL's descriptions of dense tasks: names of metrics, metrics, loss, which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libmtl_recon.problems.dense.losses import DepthLoss, NormalLoss, SegmentationLoss
from libmtl_recon.problems.dense.metrics import DepthMetric, NormalMetric, SegmentationMetric
from libmtl_recon.problems.dense.valid import VOID


def segmentation(classes: int, ignore: Sequence[int] = VOID) -> dict[str, Any]:
    """Return the entry of LibMTL's ``task_dict`` for classes per pixel."""
    return {
        "metrics": ["mIoU", "pixAcc"],
        "metrics_fn": SegmentationMetric(classes, ignore),
        "loss_fn": SegmentationLoss(ignore),
        "weight": [1, 1],
    }


def depth() -> dict[str, Any]:
    """Return the entry for the depth, or the inverse depth, per pixel."""
    return {
        "metrics": ["abs_err", "rel_err"],
        "metrics_fn": DepthMetric(),
        "loss_fn": DepthLoss(),
        "weight": [0, 0],
    }


def normal() -> dict[str, Any]:
    """Return the entry for the surface normal per pixel."""
    return {
        "metrics": ["mean", "median", "<11.25", "<22.5", "<30"],
        "metrics_fn": NormalMetric(),
        "loss_fn": NormalLoss(),
        "weight": [0, 0, 1, 1, 1],
    }
