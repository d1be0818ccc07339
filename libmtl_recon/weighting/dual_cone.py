"""Projection of a combination of the task gradients onto their dual cone, in T dimensions.

The dual cone is the set of vectors that conflict with no gradient. The projection adds to a vector
a combination of the gradients with coefficients x ≥ 0, the solution of a non-negative least-squares
problem on their Gramian.

Source: Lawson and Hanson, "Solving Least Squares Problems" (1974), Chapter 23.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.weighting.active_set import descend

# The rounding error of a slope, relative to the sum of the terms' sizes, and of a singular value.
_EXACT = 1e-12


def dual_cone_weights(
    products: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute the weights of the nearest vector to Σ weights[i] gᵢ that conflicts with no gradient.

    They are the v ≥ weights that minimise vᵀMv: Proposition 1 of "Jacobian Descent For
    Multi-Objective Optimization" (2024).

    Args:
        products: ``[T, T]``, float64: M, the Gramian of the task gradients, finite, whose lengths
            may differ by any factor.
        weights: ``[T]``, float64.

    Returns:
        ``[T]``, none below the given weights. The weight of a gradient of zero is unchanged.
    """
    norms = np.sqrt(products.diagonal().clip(min=0.0))
    kept = np.flatnonzero(norms > 0)
    projected = weights.copy()
    if len(kept):
        own = norms[kept]
        # In units of each gradient's own length, since the systems are solved in floating point.
        cosine = products[np.ix_(kept, kept)] / own / own[:, None]
        projected[kept] += _added(cosine, weights[kept] * own) / own
    return projected


def _added(cosine: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the x ≥ 0 for which (start + x) cosine (start + x) is least."""
    tasks = len(start)
    added = np.zeros(tasks)
    slopes = cosine @ start

    def goal_of(active: list[int]) -> NDArray[np.float64]:
        goal = np.zeros(tasks)
        system = cosine[np.ix_(active, active)]
        goal[active] = np.linalg.lstsq(system, -slopes[active], rcond=_EXACT)[0]
        return goal

    # Each iteration reduces the length, so that no set of tasks occurs twice.
    for _ in range(2**tasks if tasks < 10 else 1000):
        left = slopes + cosine @ added
        doubt = _EXACT * (np.abs(cosine) @ (np.abs(start) + added))
        steepest = int(np.where(added > 0, np.inf, left + doubt).argmin())
        if added[steepest] > 0 or not left[steepest] + doubt[steepest] < 0:
            break
        added = descend(added, [*np.flatnonzero(added), steepest], goal_of)
    return added
