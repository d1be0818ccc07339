"""The point of least norm in the convex hull of the task gradients, computed in T dimensions.

Source: Wolfe, "Finding the nearest point in a polytope" (Mathematical Programming, 1976).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.weighting.active_set import descend

# The tolerance of optimality, relative to the sum of the sizes of a slope's terms.
_EXACT = 1e-12


def least_norm_weights(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the weights w on the simplex that minimise wᵀMw.

    Args:
        products: ``[T, T]``, float64: M, the Gramian of the task gradients, whose lengths may
            differ by any factor.

    Returns:
        ``[T]``, not negative, of sum 1. If gradients are zero, the weight is distributed equally
        among these.
    """
    tasks = len(products)
    norms = np.sqrt(products.diagonal().clip(min=0.0))
    shortest = int(norms.argmin())
    if not norms[shortest] > 0 or not np.isfinite(products).all():
        zero = norms == 0
        chosen = zero if np.isfinite(norms).all() and zero.any() else np.ones(tasks)
        alike: NDArray[np.float64] = chosen / chosen.sum()
        return alike
    # In units of each gradient's own length, since the system is solved in floating point: v = w n.
    cosine = products / norms / norms[:, None]
    shares = norms[shortest] / norms  # the coefficients of v in the sum of w
    parts = np.eye(tasks)[shortest]

    def goal_of(active: list[int]) -> NDArray[np.float64]:
        count = len(active)
        system = np.zeros((count + 1, count + 1))
        system[:count, :count] = cosine[np.ix_(active, active)]
        system[-1, :-1] = system[:-1, -1] = shares[active]
        goal = np.zeros(tasks)
        goal[active] = np.linalg.lstsq(system, np.eye(count + 1)[-1], rcond=None)[0][:count]
        return goal

    # Each iteration reduces the norm up to rounding, so that no set of tasks occurs twice.
    for _ in range(2**tasks if tasks < 10 else 1000):
        slopes = cosine @ parts
        # KKT: gᵢ·u ≥ ‖u‖² for the least u, here divided by gᵢ's length.
        gains = slopes - shares * (parts @ slopes)
        doubt = _EXACT * (np.abs(cosine) @ parts + shares * (parts @ np.abs(cosine) @ parts))
        short = gains + doubt
        steepest = int(np.where(parts > 0, np.inf, short).argmin())
        if not short[steepest] < 0 or parts[steepest] > 0:
            break
        parts = descend(parts, [*np.flatnonzero(parts), steepest], goal_of)
    weights = parts * shares
    normed: NDArray[np.float64] = weights / weights.sum()
    return normed


def shortest_combination(gramian: Tensor, resolved: float) -> Tensor:
    """Compute the weights of the shortest convex combination of the gradients that are not zero.

    This is a descent direction for all of these tasks (Désidéri, "Multiple-gradient descent
    algorithm (MGDA) for multiobjective optimization", 2012), unless it is zero (Pareto
    stationarity).

    Args:
        gramian: ``[T, T]``, float64, symmetric, on the CPU.
        resolved: The combination counts as zero if its squared length is below this, relative to
            the sum of the terms' sizes.

    Returns:
        ``[T]``, float64, not negative, of sum 1; zeros if the combination counts as zero.
    """
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    kept = (norms > 0).nonzero().flatten()
    weights = torch.zeros_like(norms)
    if len(kept) == 0:
        return weights
    matrix, lengths = gramian[kept][:, kept], norms[kept]
    found = torch.from_numpy(least_norm_weights(matrix.numpy()))
    parts = found * lengths
    cosine = matrix / lengths / lengths[:, None]
    if float(parts @ cosine @ parts) > resolved * float(parts.sum()) ** 2:
        weights[kept] = found
    return weights
