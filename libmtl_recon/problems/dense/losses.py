"""Losses of dense tasks: each is a mean over the pixels of a batch that have a label.

A batch in which no pixel has one has the loss 0, with a graph: its gradients are zero. Where a
sample's whole label is NaN, libmtl_recon leaves the sample out before a loss sees it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from LibMTL.loss import AbsLoss
from torch import Tensor
from torch.nn import functional

from libmtl_recon.problems.dense.valid import VOID, class_labels, mean_over, measured


class SegmentationLoss(AbsLoss):  # type: ignore[misc]  # LibMTL is untyped
    """Cross-entropy per pixel.

    Args:
        ignore: The labels of void pixels.
    """

    def __init__(self, ignore: Sequence[int] = VOID) -> None:
        super().__init__()
        self.ignore = tuple(ignore)

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Compute the mean over the pixels that are not void.

        Args:
            pred: Scores of C classes, ``[B, C, H, W]``.
            gt: Classes, ``[B, H, W]`` or ``[B, 1, H, W]``, of any dtype.
        """
        classes, valid = class_labels(pred, gt, self.ignore)
        return mean_over(functional.cross_entropy(pred, classes, reduction="none"), valid)


class DepthLoss(AbsLoss):  # type: ignore[misc]  # LibMTL is untyped
    """The absolute error of the depth; 0, NaN and infinity are missing measurements."""

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Compute the mean over the measured pixels of ``[B, 1, H, W]``."""
        valid = measured(gt)
        return mean_over((pred - torch.where(valid, gt, 0)).abs(), valid)


class NormalLoss(AbsLoss):  # type: ignore[misc]  # LibMTL is untyped
    """One minus the cosine of the angle between two normals, of any lengths.

    Pixels whose label is (0, 0, 0), or has an entry that is NaN or infinite, have none.
    """

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Compute the mean over the pixels of ``[B, 3, H, W]`` that have a normal."""
        valid = measured(gt)
        cosine = functional.cosine_similarity(pred, torch.where(valid, gt, 0), dim=1)
        return mean_over(1 - cosine, valid.squeeze(1))
