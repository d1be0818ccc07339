"""Aggregators of TorchJD that compute their Gramian in float64, whatever the Jacobian's dtype."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.linalg import Matrix, PSDMatrix

from libmtl_recon.gradients import gramian
from libmtl_recon.gradients.combine import combine


class ExactAggregator(GramianWeightedAggregator):
    """An aggregator by a weighting of the Gramian, which is computed in float64.

    The update is summed in float64 where the gradients need it.

    Args:
        weighting: The weighting of the Gramian.
    """

    def __init__(self, weighting: Weighting[PSDMatrix]) -> None:
        super().__init__(weighting)
        # The base class composes it with a Gramian in the Jacobian's own dtype.
        self.weighting = weighting << exact_gramian

    @torch.no_grad()
    def forward(self, matrix: Matrix, /) -> Tensor:
        """Aggregate the rows of a Jacobian.

        Args:
            matrix: The Jacobian ``[T, d]``, any floating dtype.

        Returns:
            The update ``[d]``, in the Jacobian's dtype, on its device.

        Raises:
            UsageError: A row is not finite, or the weighting does not accept the Gramian.
        """
        return combine(self.weighting(matrix).cpu(), matrix)


def exact_gramian(matrix: Matrix) -> PSDMatrix:
    """Compute the Gramian of the rows of a matrix ``[T, d]``, in float64."""
    return cast(PSDMatrix, gramian(matrix))
