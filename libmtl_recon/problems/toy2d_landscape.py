"""The landscape of `toy2d`: two losses in the plane, and the front of their best trade-offs.

The losses are those of CAGrad's illustrative example ("Conflict-Averse Gradient Descent for
Multi-task Learning", section 5 and its appendix): above the line y = 0 each task has a deep, narrow
valley, below it the two are bowls side by side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# The floor of a valley: the logarithm's argument is not taken below it.
_FLOOR = 5e-6
# The front ends at the bowls' own minima, the first task's at the right.
REACH = 7.0


def losses(points: Array) -> Array:
    """Compute both losses.

    Args:
        points: ``[N, 2]``.

    Returns:
        ``[N, 2]``.
    """
    return _evaluate(points)[0]


def gradients(points: Array) -> Array:
    """Compute each task's gradient at each point.

    Args:
        points: ``[N, 2]``.

    Returns:
        ``[N, 2, 2]``: point, task, direction.
    """
    return _evaluate(points)[1]


def front(count: int = 401) -> Array:
    """Return the Pareto front: where the tasks' gradients are opposite, between the bowls' minima.

    Args:
        count: The number of points.

    Returns:
        ``[count, 2]``, from left to right.
    """
    x = np.linspace(-REACH, REACH, count)
    low, high = np.full(count, -9.0), np.full(count, -7.5)
    for _ in range(60):
        middle = (low + high) / 2
        task = gradients(np.stack([x, middle], axis=1))
        turn = task[:, 0, 0] * task[:, 1, 1] - task[:, 0, 1] * task[:, 1, 0]
        low, high = np.where(turn > 0, middle, low), np.where(turn > 0, high, middle)
    return np.stack([x, (low + high) / 2], axis=1)


def _evaluate(points: Array) -> tuple[Array, Array]:
    # By hand rather than by autograd: on a few points that takes a tenth of the time.
    x, y = points[:, 0], points[:, 1]
    half, bend = np.tanh(0.5 * y), np.tanh(y)
    steeper = 1 - bend * bend  # the derivative of bend
    share = 0.5 * (1 - half * half)  # that of half
    above = y > 0
    upper, lower = np.where(above, half, 0.0), np.where(above, 0.0, -half)
    upper_y, lower_y = np.where(above, share, 0.0), np.where(above, 0.0, -share)
    values = np.empty((len(points), 2))
    slopes = np.empty((len(points), 2, 2))
    for task, (valley, valley_y, bottom) in enumerate(
        (
            (0.5 * (-x - 7.0) + bend, steeper, REACH),
            (0.5 * (-x + 3.0) - bend + 2.0, -steeper, -REACH),
        )
    ):
        depth = np.abs(valley)
        steep = np.log(np.maximum(depth, _FLOOR)) + 6.0
        rise = np.where(depth > _FLOOR, 1.0, 0.0) / np.where(depth > 0, valley, 1.0)
        bowl = ((x - bottom) ** 2 + 0.1 * (y + 8.0) ** 2) / 10.0 - 20.0
        values[:, task] = steep * upper + bowl * lower
        slopes[:, task, 0] = -0.5 * rise * upper + 0.2 * (x - bottom) * lower
        slopes[:, task, 1] = (
            rise * valley_y * upper + steep * upper_y + 0.02 * (y + 8.0) * lower + bowl * lower_y
        )
    return values, slopes
