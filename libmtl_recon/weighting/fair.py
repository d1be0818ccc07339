"""The α-fair weights of FairGrad and Nash-MTL (α = 1).

With p = 1/α they are the w > 0 with M w = w^(-p): the minimum of the strictly convex function
½ wᵀMw - Σ φ(wᵢ) with φ' = w^(-p). It is computed by Newton's method up to rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The tolerance of w (M w) / w^(1 - p) - 1, and the one relative to the sum of the terms' sizes,
# which applies where rounding is larger: for p above 1 and a gradient that is much shorter than the
# others.
_CLOSE, _ROUNDED = 1e-9, 1e-14
_STEPS = 500  # ten are usual
# If the combination of the gradients has a squared length below this, relative to the sum of the
# terms' sizes, the weights consist of rounding errors and would diverge.
_RESOLVED = 1e-12
# A Newton step whose relative change of each weight is below this is taken fully.
_SMALL = 0.25
# The largest relative decrease of a weight in one step.
_MOST = 0.9


def fair_weights(gramian: NDArray[Any], power: float) -> NDArray[np.float64] | None:
    """Compute the weights w > 0 with M w = w^(-p).

    Args:
        gramian: ``[T, T]``, M, of the task gradients.
        power: p, above 0.

    Returns:
        ``[T]``; None where there are no such weights, because some convex combination of the
        gradients is zero, or a gradient is not finite.
    """
    if not np.isfinite(gramian).all() or not (gramian.diagonal() > 0).all():
        return None
    wide = np.asarray(gramian, dtype=np.float64)
    weights: NDArray[np.float64] = wide.diagonal() ** (-1 / (1 + power))
    lengths = np.sqrt(wide.diagonal())
    for _ in range(_STEPS):
        # In units in which the Hessian is M' + p, where M' has a unit diagonal at the solution for
        # orthogonal gradients of any lengths.
        units = weights ** ((1 + power) / 2)
        scaled = units[:, None] * wide * units
        roots = weights ** ((1 - power) / 2)
        left = scaled @ roots / roots - 1
        added = np.abs(scaled) @ roots / roots
        if (np.abs(left) <= np.maximum(_CLOSE, _ROUNDED * added)).all():
            return weights
        step = -np.linalg.solve(scaled + power * np.eye(len(weights)), left * roots) / roots
        weights = weights * (1 + step * _share(step, power))
        if weights @ wide @ weights < _RESOLVED * (lengths @ weights) ** 2:
            return None
    return None


def fair_or_zero(matrix: Tensor, power: float) -> Tensor:
    """Compute :func:`fair_weights` for the gradients that are not zero.

    Args:
        matrix: ``[T, T]``, float64, on the CPU: the Gramian of all gradients.
        power: p, above 0.

    Returns:
        ``[T]``, float64: 0 for a gradient of zero, and all 0 where there are no such weights.
    """
    weights = torch.zeros_like(matrix[0])
    present = (matrix.diagonal() > 0).nonzero().flatten()
    found = fair_weights(matrix[present][:, present].numpy(), power)
    if found is not None:
        weights[present] = torch.from_numpy(found)
    return weights


def _share(step: NDArray[np.float64], power: float) -> float:
    """Return the fraction of a Newton step to take; the step is relative to the weights."""
    longest = float(np.abs(step).max())
    if longest < _SMALL:
        return 1.0
    # The relative change of the Hessian is (1 + p) times that of the weights.
    reach = (1 + power) * longest
    return min(float(np.log1p(reach) / reach), _MOST / max(float(-step.min()), _MOST))
