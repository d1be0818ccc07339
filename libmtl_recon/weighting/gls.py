"""GLS: the geometric mean of the losses, computed from their logarithms.

Source: "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
Learning" (CVPR 2019 workshop).
"""

from __future__ import annotations

import torch
from torch import Tensor


def geometric_weights(losses: Tensor) -> Tensor:
    """Compute the gradient of the losses' geometric mean with respect to them, mean / (T loss).

    Args:
        losses: ``[T]``, none negative. If one is zero, their geometric mean is zero, its minimum,
            and the gradient is defined as zero.

    Returns:
        ``[T]``.
    """
    logs = losses.log()
    weights = (logs.mean() - logs).exp() / len(losses)
    return torch.where((losses == 0).any(), torch.zeros_like(weights), weights)
