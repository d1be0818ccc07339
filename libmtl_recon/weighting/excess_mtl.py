"""ExcessMTL, of "Robust Multi-Task Learning with Excess Risks" (ICML 2024), Algorithm 1."""

from __future__ import annotations

import torch
from torch import Tensor

# The authors' guard against a root of zero.
_TINY = 1e-7


def excess_risks(gradients: Tensor, roots: Tensor) -> Tensor:
    """What each task's loss is estimated to lie above its least: g H⁻¹ gᵀ.

    Args:
        gradients: ``[T, d]``.
        roots: ``[T, d]``, the roots of the sums of the squares of all gradients so far, which
            stand for the diagonal of H.

    Returns:
        ``[T]``, float64.
    """
    # No square is formed, which could leave float32 where the gradient does not.
    guarded = torch.hypot(roots, roots.new_tensor(_TINY**0.5))
    return (gradients * (gradients / guarded)).sum(1, dtype=torch.float64)


def grown_weights(weights: Tensor, risks: Tensor, first: Tensor, step_size: float) -> Tensor:
    """The tasks' weights after a step: those of a large excess risk grow.

    Args:
        weights: ``[T]``, those before.
        risks: ``[T]``, float64.
        first: ``[T]``, float64, those of the first step. A task without any then has no measure
            for what it has now, and keeps its weight but for the others'.
        step_size: How fast they grow.

    Returns:
        ``[T]``, in the weights' dtype, of sum T.
    """
    ratios = torch.where(first > 0, risks / first, 0.0)
    powers = step_size * ratios
    grown = weights * (powers - powers.max()).exp()
    return (len(grown) * grown / grown.sum()).to(weights.dtype)
