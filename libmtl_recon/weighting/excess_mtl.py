"""ExcessMTL, of "Robust Multi-Task Learning with Excess Risks" (ICML 2024), Algorithm 1."""

from __future__ import annotations

import torch
from torch import Tensor

# The authors' guard against a root of zero.
_TINY = 1e-7


def excess_risks(gradients: Tensor, roots: Tensor) -> Tensor:
    """Estimate the excess of each task's loss above its minimum, g H⁻¹ gᵀ.

    Args:
        gradients: ``[T, d]``.
        roots: ``[T, d]``, the roots of the sums of the squares of all gradients so far, which
            approximate the diagonal of H.

    Returns:
        ``[T]``, float64.
    """
    # hypot forms no square, which could overflow float32 where the gradient does not.
    guarded = torch.hypot(roots, roots.new_tensor(_TINY**0.5))
    return (gradients * (gradients / guarded)).sum(1, dtype=torch.float64)


def grown_weights(weights: Tensor, risks: Tensor, first: Tensor, step_size: float) -> Tensor:
    """Return the tasks' weights after a step, which grow with the excess risks.

    Args:
        weights: ``[T]``, the weights before the step.
        risks: ``[T]``, float64.
        first: ``[T]``, float64, the risks of the first step. If one is zero, the task's risk has
            no scale, and its weight only changes by the normalisation.
        step_size: The step size of the growth.

    Returns:
        ``[T]``, in the weights' dtype, of sum T.
    """
    ratios = torch.where(first > 0, risks / first, 0.0)
    powers = step_size * ratios
    grown = weights * (powers - powers.max()).exp()
    return (len(grown) * grown / grown.sum()).to(weights.dtype)
