"""LibMTL's Nash_MTL takes whatever its solver raises for an answer.

Without the package ``ecos``, which LibMTL does not declare, every solve fails inside a bare
``except`` and all weights stay 1: it trains as EW, without a word. So does any step in which the
solver fails. The bargaining solution is the minimum of a smooth convex function of T numbers,
which needs no package: it is found here by Newton's method, to the last digits.

Source: "Multi-Task Learning as a Bargaining Game" (ICML 2022), Section 3.1.
"""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.integrations.libmtl.features import method_source
from libmtl_recon.integrations.libmtl.patches.patch import Patch

_CLOSE = 1e-9  # what is left of alpha * (M alpha) - 1
_STEPS = 200  # ten are usual; each takes a fixed amount off a function that is bounded below
_HUGE = 1e6  # weights so far above those of orthogonal gradients are made of rounding errors


def nash_weights(gramian: NDArray[Any]) -> NDArray[np.float64] | None:
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


def solve_optimization(self: Any, gtg: NDArray[Any]) -> NDArray[np.float64]:
    """The weights ``[T]`` for a Gramian ``[T, T]``; where there are none, those of the last step.

    Raises:
        UserWarning: As a warning, if there are none.
    """
    found = nash_weights(gtg)
    if found is None:
        warnings.warn(
            f"Nash_MTL: no bargaining solution was found for the gradients of step {self.step}. "
            "Some weights make their sum zero, or one of them is zero, too short or too long for "
            "LibMTL to square it, or not finite. The weights of the last step are kept.",
            stacklevel=2,
        )
    else:
        self.prvs_alpha = found
    kept: NDArray[np.float64] = self.prvs_alpha
    return kept


def init_optim_problem(_: Any) -> None:
    """Set nothing up: what is solved here has no problem of a fixed number of tasks."""


def _needed(libmtl: ModuleType) -> bool:
    return "except:" in method_source(libmtl.weighting, "Nash_MTL", "solve_optimization")


def _apply(libmtl: ModuleType) -> None:
    libmtl.weighting.Nash_MTL.solve_optimization = solve_optimization
    libmtl.weighting.Nash_MTL._init_optim_problem = init_optim_problem


PATCH = Patch(
    name="nash-mtl-solver",
    reason="LibMTL's Nash_MTL silently equals EW where its solver fails, or ecos is not installed",
    needed=_needed,
    apply=_apply,
)
