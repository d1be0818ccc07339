"""The updates that several methods make of the same task gradients (Figures 1 and 3 of GradOPS)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from libmtl_recon.errors import UsageError
from libmtl_recon.weighting.gradops import deconflict, gradops_weights
from libmtl_recon.weighting.imtl import imtl_g_weights
from libmtl_recon.weighting.mgda import mgda_weights
from libmtl_recon.weighting.pcgrad import pcgrad_weights

Array = NDArray[np.float64]

# Dot products with an update below this part of the product of the lengths are conflicts; others
# are zero up to rounding.
_ROUNDING = 1e-12
_MOST_TASKS = 6
_SHORTEST, _LONGEST = 0.1, 10_000  # what tables with two decimals can show


@dataclass(frozen=True)
class Update:
    """The update of one method.

    Attributes:
        method: The name of the method.
        update: ``[d]``, the direction in which the losses are to fall.
        conflicts: The tasks, counted from 0, whose gradient has a negative dot product with it.
        modified: ``[T, d]``, the gradients g'ᵢ whose sum the update is before any weights; None for
            methods that only weigh.
    """

    method: str
    update: Array
    conflicts: tuple[int, ...]
    modified: Array | None = None


def check_gradients(gradients: Sequence[Sequence[float]], dimension: int) -> Array:
    """Return gradients ``[T, d]`` as an array.

    Raises:
        UsageError: There are fewer than two or more than six, or they are not vectors of
            ``dimension`` finite numbers with a length from 0.1 to 10,000.
    """
    if not 2 <= len(gradients) <= _MOST_TASKS or {len(one) for one in gradients} != {dimension}:
        raise UsageError(
            "gradients",
            f"must be 2 to {_MOST_TASKS} vectors of {dimension} numbers each",
            [list(one) for one in gradients],
            f"Write numbers with commas and vectors with semicolons: '{_example(dimension)}'.",
        )
    found = np.array(gradients, np.float64)
    lengths = [math.hypot(*one) for one in gradients]
    if not all(_SHORTEST <= length <= _LONGEST for length in lengths):
        raise UsageError(
            "gradients",
            f"must be vectors of finite numbers, whose lengths are from {_SHORTEST:g} to "
            f"{_LONGEST:,}",
            found.tolist(),
            "Multiply all of them by one factor, by which updates grow as well. Leave out a task "
            "whose gradient is zero: it has no direction to draw.",
        )
    return found


def gd(gradients: Array) -> Update:
    """Return the sum of the gradients."""
    return _update("GD", gradients, gradients.sum(axis=0))


def pcgrad(gradients: Array, order: Sequence[int]) -> Update:
    """Return PCGrad's update.

    Args:
        gradients: ``[T, d]``.
        order: The tasks in the order in which each gradient is projected onto the others' planes.
    """
    named = ", ".join(str(task + 1) for task in order)
    orders = [[other for other in order if other != task] for task in range(len(gradients))]
    update = pcgrad_weights(_gramian(gradients), orders).numpy() @ gradients
    modified = None
    if len(gradients) == 2:  # then there is one projection per gradient, which GradOPS shares
        modified = gradops(gradients, 0.0).modified
    return _update(f"PCGrad [{named}]", gradients, update, modified)


def gradops(gradients: Array, alpha: float) -> Update:
    """Return GradOPS's update with the exponent α."""
    gramian = _gramian(gradients)
    name = "GradOPS" if alpha == 0 else f"GradOPS α={alpha:g}"
    update = gradops_weights(gramian, alpha).numpy() @ gradients
    modified = deconflict(gramian).coefficients.numpy() @ gradients
    return _update(name, gradients, update, modified)


def mgda(gradients: Array) -> Update:
    """Return MGDA's update, the shortest convex combination."""
    return _update("MGDA", gradients, mgda_weights(_gramian(gradients)).numpy() @ gradients)


def imtl_g(gradients: Array) -> Update:
    """Return IMTL-G's update, whose projections onto all gradients are equal."""
    return _update("IMTL-G", gradients, imtl_g_weights(_gramian(gradients)).numpy() @ gradients)


def three_tasks(gradients: Array) -> list[Update]:
    """Return the updates of Figure 1: GD, PCGrad in two orders, GradOPS with α = 0."""
    order = list(range(len(gradients)))
    return [
        gd(gradients),
        pcgrad(gradients, order),
        pcgrad(gradients, order[::-1]),
        gradops(gradients, 0.0),
    ]


def two_tasks(gradients: Array, alphas: Sequence[float]) -> list[Update]:
    """Return the updates of Figure 3: GD, MGDA, IMTL-G, PCGrad, and GradOPS for each α."""
    others: list[Callable[[Array], Update]] = [gd, mgda, imtl_g]
    found = [method(gradients) for method in others]
    found.append(pcgrad(gradients, range(len(gradients))))
    return [*found, *(gradops(gradients, alpha) for alpha in alphas)]


def _update(method: str, gradients: Array, update: Array, modified: Array | None = None) -> Update:
    lengths = np.linalg.norm(gradients, axis=1) * max(float(np.linalg.norm(update)), 1e-300)
    against = gradients @ update < -_ROUNDING * lengths
    return Update(method, update, tuple(np.flatnonzero(against).tolist()), modified)


def _gramian(gradients: Array) -> torch.Tensor:
    return torch.from_numpy(gradients @ gradients.T)


def _example(dimension: int) -> str:
    rows = -np.eye(2, dimension) + np.eye(2, dimension, 1)
    return "; ".join(",".join(f"{value:g}" for value in row + 0.0) for row in rows)
