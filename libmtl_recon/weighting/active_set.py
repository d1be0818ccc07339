"""The inner step of active-set methods for non-negative variables.

Sources: Wolfe (1976) and Lawson and Hanson (1974), whose methods share it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def descend(
    parts: NDArray[np.float64],
    active: list[int],
    goal_of: Callable[[list[int]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Move from a point to the minimum over its active entries, dropping those that fall below 0.

    Args:
        parts: ``[T]``, not negative.
        active: The entries that may be above 0.
        goal_of: A function that returns the minimum ``[T]`` over some entries, of any sign, with
            zeros elsewhere.

    Returns:
        ``[T]``, not negative.
    """
    while active:
        goal = goal_of(active)
        falling = [task for task in active if goal[task] <= 0]
        if not falling:
            return goal
        steps = [
            parts[task] / (parts[task] - goal[task]) if parts[task] else 0.0 for task in falling
        ]
        first = int(np.argmin(steps))
        parts = parts + steps[first] * (goal - parts)
        parts[falling[first]] = 0
        active = [task for task in active if task != falling[first]]
    return parts
