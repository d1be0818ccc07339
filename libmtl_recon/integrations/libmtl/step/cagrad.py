"""LibMTL's CAGrad on the tasks' Gramian, for any number of tasks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.step.task_gradients import shared_gradients
from libmtl_recon.weighting.cagrad import cagrad_step, radius_of, worst_combination

# LibMTL's guard against the root of zero and division by it.
_TINY = 1e-8
# Tolerances for accepting the result of SciPy's solver as LibMTL calls it: distance from the
# simplex, and descent towards one of its vertices.
_ON_SIMPLEX, _SOLVED = 1e-6, 1e-2


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """Compute CAGrad's update on the shared parameters; return w on the simplex, ``[T]``.

    Raises:
        UsageError: ``rep_grad`` is on, or ``rescale`` is not 0, 1 or 2.
    """
    gradients = shared_gradients(self, losses)
    matrix, c = gradients.matrix, kwargs["calpha"]
    worst = libmtls_worst(matrix.numpy(), radius_of(matrix.numpy(), c, _TINY))
    step = cagrad_step(matrix, c, kwargs["rescale"], guard=_TINY, worst=worst)
    gradients.hand_out(step.weights)
    return np.asarray(step.worst)


def libmtls_worst(gramian: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return the w that LibMTL finds with SciPy's solver, which stops at a tolerance.

    For large gradients that solver stops at the start or diverges: then the exact w is returned.

    Args:
        gramian: ``[T, T]``, float64; it may contain NaN.
        radius: Largest distance of the update from the mean gradient.
    """
    weights: NDArray[np.float64] = _minimise(gramian, radius)
    if _solves(gramian, radius, weights) or not np.isfinite(gramian).all():
        return weights
    return worst_combination(gramian, radius, _TINY)


def _solves(gramian: NDArray[np.float64], radius: float, weights: NDArray[np.float64]) -> bool:
    """Return whether the weights are on the simplex with no descent towards any vertex."""
    length = math.sqrt(max(float(weights @ gramian @ weights), 0.0))
    if abs(weights.sum() - 1) > _ON_SIMPLEX:
        return False
    if length == 0 or not math.isfinite(length):
        return True  # there is nothing to judge by
    slopes = gramian.mean(axis=1) + radius / length * (gramian @ weights)
    return bool(slopes.min() - weights @ slopes > -_SOLVED * np.abs(slopes).max())


def _minimise(gramian: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    from scipy.optimize import minimize

    tasks = len(gramian)
    start = np.ones(tasks) / tasks

    def objective(w: NDArray[np.float64]) -> float:
        along = w @ gramian @ start
        return float(along + radius * np.sqrt(w @ gramian @ w + _TINY))

    found: NDArray[np.float64] = minimize(
        objective,
        start,
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda w: 1 - sum(w)},
    ).x
    return found
