"""The grid of 400 bins of width 1/200, from -1 to 1, in which cosines are counted."""

from __future__ import annotations

import math
import numbers

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.errors import UsageError

PER_UNIT = 200
BINS = 2 * PER_UNIT

# Each edge is the double nearest to its decimal, so that a severity such as -0.1, read from a
# command line, is exactly equal to an edge.
EDGES: NDArray[np.float64] = np.array([(b - PER_UNIT) / PER_UNIT for b in range(BINS + 1)])


def check_severity(parameter: str, severity: float) -> int:
    """Return the number of bins below a severity S.

    Args:
        parameter: The name of the caller's argument, for the message.
        severity: S of Definition 3.

    Raises:
        UsageError: S is not in (-1, 0], or not a multiple of 0.005.
    """
    rule = "must be a multiple of 0.005, above -1 and up to 0"
    if not isinstance(severity, numbers.Real) or not -1.0 < severity <= 0.0:
        raise UsageError(
            parameter,
            rule,
            severity,
            "The severity S of Definition 3 is the cosine below which two tasks conflict, such "
            "as -0.1; a value closer to 0 counts more conflicts.",
        )
    below = round((severity + 1.0) * PER_UNIT)
    if not math.isclose(EDGES[below], severity, rel_tol=0, abs_tol=1e-9):
        near = f"{EDGES[below]:g}"
        raise UsageError(
            parameter, rule, severity, f"Cosines are counted in bins of 0.005: try {near}."
        )
    return below
