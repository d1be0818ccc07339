"""LibMTL's MGDA may stop before it has found the combination of least norm, or never.

For three tasks or more it searches until a step changes the weights by less than 1e-5, which need
not be near the solution, and need not happen: the release's loop, which is to end after 250 steps,
counts none, and the main branch's ends without a result. Here the solution is found by an
active-set method, exactly, after a few solves of a T x T system.

Sources: "Multi-Task Learning as Multi-Objective Optimization" (NeurIPS 2018), Equation 4, for what
is solved; Wolfe, "Finding the nearest point in a polytope" (Mathematical Programming, 1976), for
how.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.gradient import gramian
from libmtl_recon.plugin.features import source_of
from libmtl_recon.plugin.mends.mend import Mend

_EXACT = 1e-12  # of the largest squared norm: how far from optimal rounding may leave the weights


def least_norm_weights(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights w on the simplex that minimise wᵀMw.

    Args:
        products: ``[T, T]``, M, the Gramian of the task gradients.

    Returns:
        ``[T]``, non-negative, of sum 1.
    """
    tasks = len(products)
    scale = float(products.diagonal().max())
    weights = np.zeros(tasks)
    weights[products.diagonal().argmin()] = 1
    if not scale > 0 or not np.isfinite(scale):
        return np.full(tasks, 1 / tasks)
    matrix = products / scale
    # Each round but for rounding makes the norm smaller, so that no set of tasks comes twice.
    for _ in range(2**tasks if tasks < 10 else 1000):
        slopes = matrix @ weights
        steepest = int(slopes.argmin())
        if slopes[steepest] > weights @ slopes - _EXACT or weights[steepest] > 0:
            break
        weights = _descend(matrix, weights, [*np.flatnonzero(weights), steepest])
    normed: NDArray[np.float64] = weights / weights.sum()
    return normed


def _descend(
    matrix: NDArray[np.float64], weights: NDArray[np.float64], active: list[int]
) -> NDArray[np.float64]:
    """Go to the least norm in the hull of some tasks, without those that would go below 0."""
    while True:
        tasks = len(active)
        system = np.ones((tasks + 1, tasks + 1))
        system[:tasks, :tasks] = matrix[np.ix_(active, active)]
        system[-1, -1] = 0
        goal = np.zeros(len(weights))
        goal[active] = np.linalg.lstsq(system, np.eye(tasks + 1)[-1], rcond=None)[0][:tasks]
        falling = [task for task in active if goal[task] <= 0]
        if not falling:
            return goal
        steps = [
            weights[task] / (weights[task] - goal[task]) if weights[task] else 0.0
            for task in falling
        ]
        first = int(np.argmin(steps))
        weights = weights + steps[first] * (goal - weights)
        weights[falling[first]] = 0
        active = [task for task in active if task != falling[first]]


def _needed(libmtl: ModuleType) -> bool:
    return "while iter_count" in source_of(libmtl.weighting.MGDA._find_min_norm_element)


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.MGDA._find_min_norm_element

    @functools.wraps(original)
    def find_min_norm_element(self: Any, grads: Tensor) -> Tensor:
        if len(grads) < 3:  # LibMTL's closed form, which keeps both weights above 0
            two: Tensor = original(self, grads)
            return two
        weights = least_norm_weights(gramian(grads).cpu().numpy())
        return torch.as_tensor(weights, dtype=grads.dtype, device=grads.device)

    libmtl.weighting.MGDA._find_min_norm_element = find_min_norm_element


MEND = Mend(
    name="mgda-solver",
    reason="LibMTL's MGDA, for three tasks or more, may stop far from the least norm, or never",
    needed=_needed,
    apply=_apply,
)
