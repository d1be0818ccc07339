"""LibMTL's CAGrad on the tasks' Gramian, for any number of tasks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.step.task_gradients import shared_gradients
from libmtl_recon.weighting.cagrad import cagrad_step, radius_of, worst_combination

# LibMTL's guard against a root of zero and against dividing by it.
_TINY = 1e-8
# How far from the simplex, and how far downhill a vertex of it may lie, where SciPy's solver, as
# LibMTL calls it, has found a solution.
_ON_SIMPLEX, _SOLVED = 1e-6, 1e-2


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """CAGrad's update on the shared parameters; returns w on the simplex, ``[T]``.

    Raises:
        UsageError: ``rep_grad`` is on, or ``rescale`` is none of 0, 1, 2.
    """
    gradients = shared_gradients(self, losses)
    matrix, c = gradients.matrix, kwargs["calpha"]
    worst = libmtls_worst(matrix.numpy(), radius_of(matrix.numpy(), c, _TINY))
    step = cagrad_step(matrix, c, kwargs["rescale"], guard=_TINY, worst=worst)
    gradients.hand_out(step.weights)
    return np.asarray(step.worst)


def libmtls_worst(gramian: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """The w that LibMTL finds by SciPy's solver, which stops at a tolerance.

    Where gradients are large that stops at the start, or loses its way: there it is the exact one.

    Args:
        gramian: ``[T, T]``, float64; it may hold NaN.
        radius: How far the update may lie from the mean gradient.
    """
    weights: NDArray[np.float64] = _minimise(gramian, radius)
    if _solves(gramian, radius, weights) or not np.isfinite(gramian).all():
        return weights
    return worst_combination(gramian, radius, _TINY)


def _solves(gramian: NDArray[np.float64], radius: float, weights: NDArray[np.float64]) -> bool:
    """Whether the weights lie on the simplex, and no vertex of it lies downhill from them."""
    length = math.sqrt(max(float(weights @ gramian @ weights), 0.0))
    if abs(weights.sum() - 1) > _ON_SIMPLEX:
        return False
    if length == 0 or not math.isfinite(length):
        return True  # there is nothing to go by
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
