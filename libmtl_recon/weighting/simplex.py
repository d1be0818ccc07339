"""Projection onto the simplex.

Source: Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions" (ICML
2008), Figure 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def project_on_simplex(values: NDArray[Any], total: float = 1.0) -> NDArray[np.float64]:
    """Return the nearest point with non-negative entries whose sum is ``total``.

    Args:
        values: ``[T]``, finite.
        total: The sum, above 0.

    Returns:
        ``[T]``, float64.
    """
    wide = np.asarray(values, dtype=np.float64)
    falling = np.sort(wide)[::-1]
    # The amount subtracted from each entry if the 1, 2, … largest entries stay above zero.
    losses = (np.cumsum(falling) - total) / np.arange(1, len(wide) + 1)
    projected: NDArray[np.float64] = wide - losses[np.flatnonzero(falling > losses)[-1]]
    return projected.clip(min=0.0)
