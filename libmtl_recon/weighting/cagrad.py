"""CAGrad, of "Conflict-Averse Gradient Descent for Multi-task Learning" (NeurIPS 2021).

In Algorithm 1 the update is the mean gradient g₀ plus a multiple of a convex combination of the T
gradients, found by a problem in T numbers; so the gradients are read twice, for their Gramian and
for the update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.weighting.checking import check_gramian, check_number

# The authors' guard against a root of zero and against dividing by it.
_TINY = 1e-8
# How far from the simplex, and how far downhill a vertex of it may lie, where SciPy's solver, as
# LibMTL calls it, has found a solution.
_ON_SIMPLEX, _SOLVED = 1e-6, 1e-2


@dataclass(frozen=True)
class CAGradStep:
    """What CAGrad makes of one step's gradients.

    Attributes:
        weights: ``[T]``, float64, on the CPU: the update is Σ weights[i] gᵢ.
        worst: ``[T]``, float64, on the CPU: w on the simplex, which makes g_w = Σ wᵢ gᵢ of the
            tasks that the mean gradient serves worst.
    """

    weights: Tensor
    worst: Tensor


def cagrad_weights(gramian: Any, calpha: float, rescale: int = 1) -> Tensor:
    """The weights of the original gradients whose combination is CAGrad's update.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        calpha: c: how far the update may lie from g₀, in lengths of g₀.
        rescale: What the update is divided by: 0 for nothing, 1 for 1 + c², 2 for 1 + c.

    Returns:
        ``[T]``, float64, on the CPU.

    Raises:
        UsageError: The Gramian is not a symmetric matrix of finite numbers, ``calpha`` is no
            number of at least 0, or ``rescale`` is none of 0, 1, 2.
    """
    matrix = check_gramian(gramian).cpu()
    check_number("calpha", calpha, 0.0, way_out="Below 1 is usual; at 0 the update is the mean.")
    return cagrad_step(matrix, calpha, rescale).weights


def cagrad_step(gramian: Tensor, calpha: float, rescale: int = 1) -> CAGradStep:
    """As :func:`cagrad_weights`, with w, of a Gramian that may hold NaN."""
    if rescale not in (0, 1, 2):
        raise UsageError("rescale", "must be 0, 1 or 2", rescale, "Leave it out for 1.")
    matrix = gramian.detach().cpu().double().numpy()
    mean = 1 / len(matrix)
    radius = calpha * math.sqrt(max(float(matrix.mean()), 0.0) + _TINY) + _TINY
    worst = _worst(matrix, radius)
    length = math.sqrt(max(float(worst @ matrix @ worst), 0.0))
    weights = mean + radius / (length + _TINY) * worst
    weights /= (1.0, 1 + calpha**2, 1 + calpha)[rescale]
    return CAGradStep(weights=torch.from_numpy(weights), worst=torch.from_numpy(worst))


def _worst(gramian: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """The w on the simplex that minimises g_w·g₀ + radius · ‖g_w‖ (the dual problem)."""
    weights: NDArray[np.float64] = _minimise(gramian, radius).x
    if not _solves(gramian, radius, weights):
        # SciPy's solver stops at the start, or loses its way, where gradients are large: again, in
        # units of their length.
        size = float(gramian.diagonal().mean())
        weights = _minimise(gramian / size, radius / math.sqrt(size), ftol=1e-12).x
    return weights


def _solves(gramian: NDArray[np.float64], radius: float, weights: NDArray[np.float64]) -> bool:
    """Whether the weights lie on the simplex, and no vertex of it lies downhill from them."""
    length = math.sqrt(max(float(weights @ gramian @ weights), 0.0))
    if abs(weights.sum() - 1) > _ON_SIMPLEX:
        return False
    if length == 0 or not math.isfinite(length):
        return True  # there is nothing to go by
    slopes = gramian.mean(axis=1) + radius / length * (gramian @ weights)
    return bool(slopes.min() - weights @ slopes > -_SOLVED * np.abs(slopes).max())


def _minimise(gramian: NDArray[np.float64], radius: float, **options: float) -> Any:
    from scipy.optimize import minimize

    tasks = len(gramian)
    start = np.ones(tasks) / tasks

    def objective(w: NDArray[np.float64]) -> float:
        along = w @ gramian @ start
        return float(along + radius * np.sqrt(w @ gramian @ w + _TINY))

    return minimize(
        objective,
        start,
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda w: 1 - sum(w)},
        options=options,
    )
