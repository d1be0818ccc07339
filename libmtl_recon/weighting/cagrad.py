"""CAGrad, of "Conflict-Averse Gradient Descent for Multi-task Learning" (NeurIPS 2021).

In Algorithm 1 the update is the mean gradient g₀ plus c‖g₀‖ times the direction of g_w, the convex
combination of the gradients that minimises g_w·g₀ + c‖g₀‖ ‖g_w‖. For a given length t of g_w this
is a least-norm problem for the gradients gᵢ + s g₀, with s = t / (c‖g₀‖). The remaining equation
in t has a closed form for the tasks whose wᵢ is above 0.
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
from libmtl_recon.weighting.checked_gramian import of_gramian
from libmtl_recon.weighting.checking import check_number
from libmtl_recon.weighting.dual_cone import dual_cone_weights
from libmtl_recon.weighting.least_norm import least_norm_weights

# A squared length below this, relative to the sum of the terms' sizes, is a rounding error.
_RESOLVED = 1e-12
# A radius below this, in units of the longest gradient, does not change the mean gradient.
_NOTHING = 1e-15
# The relative tolerance of the length of g_w, and the most iterations; five are usual.
_CLOSE, _ROUNDS = 1e-13, 100


@dataclass(frozen=True)
class CAGradStep:
    """The result of CAGrad for one step.

    Attributes:
        weights: ``[T]``, float64, on the CPU: the update is Σ weights[i] gᵢ.
        worst: ``[T]``, float64, on the CPU: w on the simplex, the weights of g_w = Σ wᵢ gᵢ, which
            are those of the tasks that gain least from the mean gradient.
    """

    weights: Tensor
    worst: Tensor


def cagrad_weights(gramian: Any, c: float = 0.4, rescale: int = 0) -> Tensor:
    """Return the weights of the task gradients whose combination is CAGrad's update.

    Of all updates within the distance c‖g₀‖ of the mean gradient g₀, it maximises the gain of the
    task that gains least (Equation 3).

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        c: The largest distance of the update from g₀, relative to the length of g₀. With 0 the
            update is g₀.
        rescale: The divisor of the update: 0 for none, as in the paper; 1 for 1 + c², 2 for 1 + c,
            as in the authors' code.

    Returns:
        ``[T]``, float64, not negative, on the Gramian's device (on the CPU if that has no float64).
        Where Algorithm 1 would divide by a length of zero (a convex combination of the gradients is
        zero), they are the weights of the nearest vector to g₀ that conflicts with no gradient,
        which is one of the best updates there.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, ``c`` is not a number of
            at least 0, or ``rescale`` is not 0, 1 or 2.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> weights = cagrad_weights(gradients @ gradients.T, c=0.5)
        >>> update = weights @ gradients.double()
        >>> round(float((update - gradients.mean(0)).norm() / gradients.mean(0).norm()), 6)
        0.5
    """
    check_number("c", c, 0.0, way_out="Below 1 is usual; at 0 the update is the mean.")
    return of_gramian(gramian, lambda matrix: cagrad_step(matrix, c, rescale).weights)


def cagrad_step(
    gramian: Tensor,
    c: float,
    rescale: int = 0,
    *,
    guard: float = 0.0,
    worst: NDArray[np.float64] | None = None,
) -> CAGradStep:
    """Compute :func:`cagrad_weights`, and w.

    Args:
        gramian: ``[T, T]``, finite.
        c: As for :func:`cagrad_weights`.
        rescale: As for :func:`cagrad_weights`.
        guard: The constant that the authors' code adds to squares below a root, and to lengths.
        worst: ``[T]``, w, if it is already known; the Gramian may then hold NaN.

    Raises:
        UsageError: ``rescale`` is not 0, 1 or 2.
    """
    if isinstance(rescale, bool) or rescale not in (0, 1, 2):
        raise UsageError("rescale", "must be 0, 1 or 2", rescale, "Leave it out for 0.")
    matrix = gramian.detach().cpu().double().numpy()
    tasks = len(matrix)
    radius = radius_of(matrix, c, guard)
    weights = np.full(tasks, 1 / tasks)
    if worst is None:
        worst = worst_combination(matrix, radius, guard)
    length = math.sqrt(max(float(worst @ matrix @ worst), 0.0))
    if guard > 0 or length**2 > _RESOLVED * _added_up(matrix, worst):
        weights = weights + radius / (length + guard) * worst
    elif radius > _NOTHING * math.sqrt(float(matrix.diagonal().max())):
        weights = dual_cone_weights(matrix, weights)
    weights = weights / (1.0, 1 + c**2, 1 + c)[rescale]
    return CAGradStep(weights=torch.from_numpy(weights), worst=torch.from_numpy(worst))


def radius_of(gramian: NDArray[np.float64], c: float, guard: float) -> float:
    """Return the largest distance of the update from the mean gradient."""
    return c * math.sqrt(max(float(gramian.mean()), 0.0) + guard) + guard


def worst_combination(
    gramian: NDArray[np.float64], radius: float, guard: float = 0.0
) -> NDArray[np.float64]:
    """Solve the dual problem: the w on the simplex minimising g_w·g₀ + radius √(‖g_w‖² + guard).

    Args:
        gramian: ``[T, T]``, float64, finite.
        radius: The largest distance of the update from g₀.
        guard: The constant that is added below the root.

    Returns:
        ``[T]``, float64, of sum 1. It need not be unique where the least g_w is zero.
    """
    longest = float(gramian.diagonal().max())
    if radius <= _NOTHING * math.sqrt(longest):
        served_worst: NDArray[np.float64] = np.eye(len(gramian))[gramian.mean(axis=1).argmin()]
        return served_worst
    shortest = least_norm_weights(gramian)
    least = max(float(shortest @ gramian @ shortest), 0.0)
    stationary = least <= _RESOLVED * _added_up(gramian, shortest)
    if guard == 0 and stationary and _reachable(gramian, radius):
        return shortest
    # The length of g_w (with the guard) is between that of the shortest combination and that of
    # the longest gradient. Above the solution, the length found for a given length is below it.
    low = math.sqrt(guard if stationary else least + guard)
    high = math.sqrt(longest + guard)
    length = high
    worst = shortest
    for _ in range(_ROUNDS):
        worst = _nearest(gramian, length / radius)
        found = math.sqrt(max(float(worst @ gramian @ worst), 0.0) + guard)
        low, high = (length, high) if found > length else (low, length)
        wanted = _length_on_face(gramian, radius, guard, np.flatnonzero(worst > 0))
        if abs(wanted - length) <= _CLOSE * length or high - low <= _CLOSE * high:
            break
        if not low < wanted < high:
            wanted = math.sqrt(low * high) if low > 0 else high / 16
        length = wanted
    return worst


def _nearest(gramian: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
    """Return the w on the simplex for which g_w + shift g₀ is shortest."""
    along = gramian.mean(axis=1)
    moved = gramian + shift * (along[:, None] + along) + shift**2 * along.mean()
    return least_norm_weights(moved)


def _length_on_face(
    gramian: NDArray[np.float64], radius: float, guard: float, face: NDArray[np.intp]
) -> float:
    """Return the length t of g_w that solves the equation if only tasks of the face have weights.

    There w = p + (t / radius) q, where p gives the least norm on the face's affine hull, and q,
    of sum 0, points from there against g₀. p and q are orthogonal, so that
    t² = guard + ‖g_p‖² + (t / radius)² ‖g_q‖².
    """
    tasks = len(face)
    sizes = np.sqrt(gramian.diagonal()[face].clip(min=0.0))
    units = np.where(sizes > 0, 1 / np.where(sizes > 0, sizes, 1.0), 1.0)
    system = np.zeros((tasks + 1, tasks + 1))
    system[:tasks, :tasks] = gramian[np.ix_(face, face)] * units * units[:, None]
    system[-1, :-1] = system[:-1, -1] = units / units.max()
    goals = np.zeros((tasks + 1, 2))
    goals[-1, 0] = 1 / units.max()
    goals[:tasks, 1] = -gramian.mean(axis=1)[face] * units
    solved = np.linalg.lstsq(system, goals, rcond=None)[0][:tasks] * units[:, None]
    parts = gramian[np.ix_(face, face)]
    least, growth = (max(float(one @ parts @ one), 0.0) for one in solved.T)
    rest = 1 - growth / radius**2
    return math.sqrt((guard + least) / rest) if rest > 0 else math.inf


def _reachable(gramian: NDArray[np.float64], radius: float) -> bool:
    """Return whether the nearest vector to g₀ that conflicts with no gradient is in the radius."""
    mean = np.full(len(gramian), 1 / len(gramian))
    added = dual_cone_weights(gramian, mean) - mean
    return bool(added @ gramian @ added <= radius**2 * (1 + 1e-9))


def _added_up(gramian: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(weights @ np.sqrt(gramian.diagonal().clip(min=0.0))) ** 2
