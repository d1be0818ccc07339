"""CAGrad, of "Conflict-Averse Gradient Descent for Multi-task Learning" (NeurIPS 2021).

In Algorithm 1 the update is the mean gradient g₀ plus c‖g₀‖ times the direction of g_w, the convex
combination of the gradients that minimises g_w·g₀ + c‖g₀‖ ‖g_w‖. For a given length t of g_w in the
place of its root, that is a least-norm problem for the gradients gᵢ + s g₀, with s = t / (c‖g₀‖);
what remains is an equation in t, which has a closed form for the tasks whose wᵢ is above 0.
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

# A squared length below this, in units of what is added up, is a rounding error.
_RESOLVED = 1e-12
# A radius below this, in units of the longest gradient, leaves the mean gradient as it is.
_NOTHING = 1e-15
# How closely the length of g_w is found, relatively, and in how many rounds; five are usual.
_CLOSE, _ROUNDS = 1e-13, 100


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


def cagrad_weights(gramian: Any, c: float = 0.4, rescale: int = 0) -> Tensor:
    """Return the weights of the task gradients whose combination is CAGrad's update.

    Of all updates that are no further than c‖g₀‖ from the mean gradient g₀, it is the best for the
    task that it serves worst (Equation 3).

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        c: How far the update may lie from g₀, in lengths of g₀. At 0 it is g₀.
        rescale: What the update is divided by: 0 for nothing, as in the paper; 1 for 1 + c², 2 for
            1 + c, as in the authors' code.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU, where that has no float64), not
        negative. Where Algorithm 1 would divide by a length of zero (a convex combination of the
        gradients is zero) they are those of the nearest vector to g₀ that conflicts with no
        gradient, which is one of the best updates there.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, ``c`` is no number of at
            least 0, or ``rescale`` is none of 0, 1, 2.

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
    """As :func:`cagrad_weights`, with w.

    Args:
        gramian: ``[T, T]``, finite.
        c: As there.
        rescale: As there.
        guard: What the authors' code adds to squares below a root, and to lengths.
        worst: ``[T]``, w, where it has been found already; the Gramian may hold NaN then.

    Raises:
        UsageError: ``rescale`` is none of 0, 1, 2.
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
    """How far the update may lie from the mean gradient."""
    return c * math.sqrt(max(float(gramian.mean()), 0.0) + guard) + guard


def worst_combination(
    gramian: NDArray[np.float64], radius: float, guard: float = 0.0
) -> NDArray[np.float64]:
    """The w on the simplex that minimises g_w·g₀ + radius √(‖g_w‖² + guard), the dual problem.

    Args:
        gramian: ``[T, T]``, float64, finite.
        radius: How far the update may lie from g₀.
        guard: Added below the root.

    Returns:
        ``[T]``, float64, of sum 1. Where the least g_w is zero it need not be the only one.
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
    # the longest gradient. Beyond the one sought, that of the solution for a length is below it.
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
    """The w on the simplex for which g_w + shift g₀ is shortest."""
    along = gramian.mean(axis=1)
    moved = gramian + shift * (along[:, None] + along) + shift**2 * along.mean()
    return least_norm_weights(moved)


def _length_on_face(
    gramian: NDArray[np.float64], radius: float, guard: float, face: NDArray[np.intp]
) -> float:
    """The length t of g_w that solves the equation, if only the tasks of the face have weights.

    There w = p + (t / radius) q, where p is the least norm on the face's affine hull, and q, of
    sum 0, leads from there against g₀; p and q make a right angle, so that
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
    """Whether the nearest vector to g₀ that conflicts with no gradient is within the radius."""
    mean = np.full(len(gramian), 1 / len(gramian))
    added = dual_cone_weights(gramian, mean) - mean
    return bool(added @ gramian @ added <= radius**2 * (1 + 1e-9))


def _added_up(gramian: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float(weights @ np.sqrt(gramian.diagonal().clip(min=0.0))) ** 2
