"""Nash-MTL, of "Multi-Task Learning as a Bargaining Game" (ICML 2022), Section 3.1.

The bargaining solution is the minimum of a smooth convex function of T numbers, which needs no
package: it is found by Newton's method, to the last digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.weighting.checking import check_gramian

_CLOSE = 1e-9  # what is left of alpha * (M alpha) - 1
_STEPS = 200  # ten are usual; each takes a fixed amount off a function that is bounded below
_HUGE = 1e6  # weights so far above those of orthogonal gradients are made of rounding errors


def nash_mtl_weights(gramian: Any) -> Tensor | None:
    """The weights of the original gradients whose combination is Nash-MTL's update.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.

    Returns:
        ``[T]``, float64, on the CPU, all above 0; None where there is no solution, because some
        convex combination of the gradients is zero.

    Raises:
        UsageError: The Gramian is not a symmetric matrix of finite numbers.
    """
    found = bargained(check_gramian(gramian).cpu().numpy())
    return None if found is None else torch.from_numpy(found)


def bargained(gramian: NDArray[Any]) -> NDArray[np.float64] | None:
    """The weights alpha > 0 with M alpha = 1 / alpha (Claim 3.1).

    They minimise ½ αᵀMα - Σ log α, which is self-concordant: a damped Newton step never leaves
    the positive orthant, and always gets closer.

    Args:
        gramian: ``[T, T]``, M, of the task gradients.

    Returns:
        ``[T]``; None where there is no such alpha, because some convex combination of the
        gradients is zero, or a gradient is not finite.
    """
    if not np.isfinite(gramian).all() or not (gramian.diagonal() > 0).all():
        return None
    wide = np.asarray(gramian, dtype=np.float64)
    alpha = 1 / np.sqrt(wide.diagonal())
    largest = _HUGE * alpha
    for _ in range(_STEPS):
        # In the variables log alpha, in which the Hessian is as regular as it can be.
        scaled = alpha[:, None] * wide * alpha
        slope = scaled.sum(1) - 1
        if np.abs(slope).max() < _CLOSE:
            return alpha
        step = -np.linalg.solve(scaled + np.eye(len(alpha)), slope)
        decrement = np.sqrt(max(0.0, float(-slope @ step)))
        alpha = alpha * (1 + step / (1 + decrement if decrement > 0.25 else 1))
        if (alpha > largest).any():
            return None
    return None
