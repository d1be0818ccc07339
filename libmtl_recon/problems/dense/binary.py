"""Yes or no per pixel: the balanced loss, and metrics at the best threshold.

Saliency and edges of PASCAL-Context as ASTMT measures them (Maninis et al., 2019), and BMTAS, which
Recon follows. Labels are 0 and 1; 255 is void.
"""

from __future__ import annotations

import math

import torch
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from torch import Tensor
from torch.nn import functional

from libmtl_recon.problems.dense.valid import mean_over

VOID = 255
SALIENCY_THRESHOLDS = torch.linspace(0.2, 0.9, 15, dtype=torch.float64)
EDGE_THRESHOLDS = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


class BalancedLoss(AbsLoss):  # type: ignore[misc]  # LibMTL is untyped
    """Binary cross-entropy in which the pixels of 1 weigh w, and those of 0 weigh 1 - w.

    Args:
        weight: The weight w; None for the share of zeros among the pixels of the batch, so that
            both classes weigh the same in all.
    """

    def __init__(self, weight: float | None = None) -> None:
        super().__init__()
        self.weight = weight

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Compute the mean over the pixels of ``[B, 1, H, W]`` that are not void.

        Args:
            pred: Logits.
            gt: Labels, floating.
        """
        valid = gt != VOID
        ones = valid & (gt > 0.5)
        share = ones.sum() / valid.sum().clamp(min=1)
        weight = 1 - share if self.weight is None else self.weight
        of_ones, of_zeros = functional.softplus(-pred), functional.softplus(pred)
        return mean_over(torch.where(ones, weight * of_ones, (1 - weight) * of_zeros), valid)


class SaliencyMetric(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
    """The mean over the images of the intersection over union, at the threshold best for them all.

    The thresholds of the probability are 0.2, 0.25, …, 0.9. Where neither the label nor the
    prediction has a pixel the intersection over union is 1. An image that is void counts for
    nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reinit()

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Add a batch of logits and labels, ``[B, 1, H, W]``."""
        for logits, label in zip(pred.flatten(1), gt.flatten(1), strict=True):
            valid = label != VOID
            if not bool(valid.any()):
                continue
            ones = label[valid] > 0.5
            counts = _above(logits[valid], ones, SALIENCY_THRESHOLDS)
            union = counts.predicted + int(ones.sum()) - counts.right
            self.sums += torch.where(union > 0, counts.right / union.clamp(min=1), 1.0)
            self.images += 1

    def score_fun(self) -> list[float]:
        """Return the mean intersection over union, from 0 to 1; NaN without images."""
        return [float(self.sums.max() / self.images) if self.images else math.nan]

    def reinit(self) -> None:
        """Forget all images."""
        self.sums, self.images = torch.zeros_like(SALIENCY_THRESHOLDS), 0


class EdgeMetric(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
    """The F-measure of all pixels together, at the threshold that is best for it.

    The thresholds of the probability are 0.01, 0.02, …, 0.99. A pixel is right only where the label
    has an edge at just this pixel. This is not the F-measure of the papers (odsF), for which
    predictions are thinned and edges matched within a tolerance, by SEISM, a MATLAB program: it is
    lower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reinit()

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Add a batch of logits and labels, ``[B, 1, H, W]``."""
        valid = gt != VOID
        ones = gt[valid] > 0.5
        counts = _above(pred[valid], ones, EDGE_THRESHOLDS)
        self.right += counts.right
        self.predicted += counts.predicted
        self.ones += int(ones.sum())

    def score_fun(self) -> list[float]:
        """Return the F-measure, from 0 to 1; NaN where no label has an edge."""
        if not self.ones:
            return [math.nan]
        return [float((2 * self.right / (self.predicted + self.ones)).max())]

    def reinit(self) -> None:
        """Forget all pixels."""
        self.right = torch.zeros(len(EDGE_THRESHOLDS), dtype=torch.int64)
        self.predicted, self.ones = torch.zeros_like(self.right), 0


class _Counts:
    """Pixels whose probability is above each threshold.

    Attributes:
        right: Those that are ones, int64 ``[thresholds]``.
        predicted: All.
    """

    def __init__(self, right: Tensor, predicted: Tensor) -> None:
        self.right, self.predicted = right, predicted


def _above(logits: Tensor, ones: Tensor, thresholds: Tensor) -> _Counts:
    """Count in one pass: for each pixel, how many thresholds are below its probability."""
    probabilities = logits.sigmoid()
    # Of the same dtype and device: not every device has float64.
    passed = torch.bucketize(probabilities, thresholds.to(probabilities))
    numbers = [
        torch.bincount(some, minlength=len(thresholds) + 1).cpu() for some in (passed[ones], passed)
    ]
    # Above threshold k are the pixels that have passed more than k.
    return _Counts(*(number.flip(0).cumsum(0).flip(0)[1:] for number in numbers))
