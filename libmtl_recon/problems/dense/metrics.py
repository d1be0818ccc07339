"""Metrics of dense tasks, over all labelled pixels of a pass over the data.

They are those of MTAN's authors, which later papers took over, but for one thing: depth and normals
are averaged over the pixels of all images, not over the means of batches, so that they do not
depend on the size of a batch. Where no pixel has a label a metric is NaN. What they keep does not
grow with the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from LibMTL.metrics import AbsMetric
from torch import Tensor

from libmtl_recon.problems.dense.valid import VOID, class_labels, measured

THRESHOLDS = (11.25, 22.5, 30.0)  # degrees


class SegmentationMetric(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
    """Mean intersection over union, and pixel accuracy, of one confusion matrix of all pixels.

    The mean is over the classes that occur in a label or in a prediction; void pixels count for
    neither.

    Args:
        classes: The number of classes.
        ignore: The labels of void pixels.
    """

    def __init__(self, classes: int, ignore: Sequence[int] = VOID) -> None:
        super().__init__()
        self.classes = classes
        self.ignore = tuple(ignore)
        self.reinit()

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Count the pixels of a batch by their label and their prediction.

        Args:
            pred: Scores of the classes, ``[B, C, H, W]``.
            gt: Classes, ``[B, H, W]`` or ``[B, 1, H, W]``, of any dtype.
        """
        labels, valid = class_labels(pred, gt, self.ignore)
        places = labels[valid] * self.classes + pred.argmax(1)[valid]
        counts = torch.bincount(places.cpu(), minlength=self.classes**2)
        self.confusion += counts.reshape(self.classes, self.classes)

    def score_fun(self) -> list[float]:
        """Return the mean intersection over union and the pixel accuracy, from 0 to 1."""
        right = self.confusion.diagonal().double()
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        found = union > 0
        if not bool(found.any()):
            return [math.nan, math.nan]
        return [
            float((right[found] / union[found]).mean()),
            float(right.sum() / self.confusion.sum()),
        ]

    def reinit(self) -> None:
        """Forget all pixels."""
        self.confusion = torch.zeros(self.classes, self.classes, dtype=torch.int64)


class DepthMetric(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
    """The mean absolute error, and the mean of the error divided by the depth."""

    def __init__(self) -> None:
        super().__init__()
        self.reinit()

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Add the measured pixels of a batch, ``[B, 1, H, W]``; 0, NaN and infinity are missing."""
        valid = measured(gt)
        label = gt[valid].cpu().double()
        error = (pred[valid].cpu().double() - label).abs()
        self.pixels += len(error)
        self.absolute += float(error.sum())
        self.relative += float((error / label.abs()).sum())

    def score_fun(self) -> list[float]:
        """Return the absolute and the relative error."""
        if not self.pixels:
            return [math.nan, math.nan]
        return [self.absolute / self.pixels, self.relative / self.pixels]

    def reinit(self) -> None:
        """Forget all pixels."""
        self.pixels, self.absolute, self.relative = 0, 0.0, 0.0


class NormalMetric(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
    """The angle between normals in degrees: mean, median, shares below 11.25, 22.5 and 30.

    All are over the pixels that have a normal; mean and median are NaN if a prediction is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reinit()

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Add the pixels of a batch, ``[B, 3, H, W]``, that have a normal, of any length."""
        valid = measured(gt).expand_as(gt)
        found = angles(*(part.movedim(1, -1)[valid.movedim(1, -1)] for part in (pred, gt)))
        self.angles.add(found.cpu().double())

    def score_fun(self) -> list[float]:
        """Return mean, median and the three shares, which are from 0 to 1."""
        return [self.angles.mean(), self.angles.median(), *self.angles.shares()]

    def reinit(self) -> None:
        """Forget all pixels."""
        self.angles = Angles()


def angles(pred: Tensor, label: Tensor) -> Tensor:
    """Return the angles between vectors, in degrees; 90 where a prediction is zero.

    By the arc tangent of sine and cosine, because the arc cosine of a float32 is off by up to
    0.03 degrees for small angles.

    Args:
        pred: Any shape with ``3 * N`` entries, floating.
        label: The same, without zero vectors.

    Returns:
        ``[N]``, of at least float32.
    """
    dtype = torch.promote_types(torch.promote_types(pred.dtype, label.dtype), torch.float32)
    one, other = pred.reshape(-1, 3).to(dtype), label.reshape(-1, 3).to(dtype)
    # Of lengths about 1, so that no product overflows.
    one = one / one.abs().amax(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
    other = other / other.abs().amax(1, keepdim=True)
    sine, cosine = torch.linalg.cross(one, other).norm(dim=1), (one * other).sum(1)
    found = torch.rad2deg(torch.atan2(sine, cosine))
    return torch.where((one == 0).all(1), 90.0, found)


class Angles:
    """Angles from 0 to 180 degrees, of which mean, median and shares are kept.

    The median is found from 1.8 million classes of 0.0001 degrees, for each of which the number and
    the mean of its angles are kept, 29 MB in all: it is exact where the angles in the middle class
    are equal or there is one, and else off by less than 0.0001. All angles of NYUv2's test images
    would take 290 MB, those of PASCAL-Context's 5 GB, and the same again to find the median.
    """

    _PER_DEGREE = 10_000

    def __init__(self) -> None:
        size = 180 * self._PER_DEGREE + 1
        self._counts = np.zeros(size, dtype=np.int64)
        self._sums = np.zeros(size)
        self._below = np.zeros(len(THRESHOLDS), dtype=np.int64)
        self._number, self._undefined = 0, 0

    def add(self, found: Tensor) -> None:
        """Add angles, float64 ``[N]`` on the CPU; NaN is an angle that is above all thresholds."""
        values = found.numpy()
        defined = values[~np.isnan(values)]
        self._number += len(values)
        self._undefined += len(values) - len(defined)
        self._below += [np.count_nonzero(defined < threshold) for threshold in THRESHOLDS]
        places = (defined * self._PER_DEGREE).astype(np.int64)
        np.add.at(self._counts, places, 1)
        np.add.at(self._sums, places, defined)

    def mean(self) -> float:
        """Return the mean; NaN without angles, or if one is NaN."""
        if not self._number or self._undefined:
            return math.nan
        return float(self._sums.sum() / self._number)

    def median(self) -> float:
        """Return the median; NaN without angles, or if one is NaN."""
        if not self._number or self._undefined:
            return math.nan
        reached = np.cumsum(self._counts)
        middle = [(self._number - 1) // 2, self._number // 2]
        places = np.searchsorted(reached, middle, side="right")
        return float(np.mean(self._sums[places] / self._counts[places]))

    def shares(self) -> list[float]:
        """Return the shares of angles below each threshold; NaN without angles."""
        if not self._number:
            return [math.nan] * len(THRESHOLDS)
        return [float(below / self._number) for below in self._below]
