"""FairGrad, of "Fair Resource Allocation in Multi-Task Learning" (ICML 2024), Equation 4."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from libmtl_recon.weighting.checked_gramian import of_gramian
from libmtl_recon.weighting.checking import check_number
from libmtl_recon.weighting.fair import fair_or_zero

# Outside this range the weights' powers overflow float64.
_LEAST, _MOST = 0.01, 20.0


def fairgrad_weights(gramian: Any, *, alpha: float = 1.0) -> Tensor:
    """Return the weights of the task gradients whose combination is FairGrad's update.

    They are the w > 0 with M w = w^(-1/α): the smaller a task's weight, the larger its gain, and
    the update increases no loss.

    Args:
        gramian: ``[T, T]``, M, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        alpha: α of the α-fairness, from 0.01 to 20: near 0 all weights are 1, for 1 they are those
            of Nash-MTL, and for larger values the tasks' gains become more equal.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64): above 0,
        except for gradients of zero, which are left out and have weight 0. All weights are 0 where
        there is no solution, because some convex combination of the other gradients is zero, up to
        rounding.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, or α is out of its range.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[8.0, 0.0], [0.0, 1.0]])
        >>> fairgrad_weights(gradients @ gradients.T, alpha=2.0).round(decimals=4).tolist()
        [0.0625, 1.0]
    """
    check_number("alpha", alpha, _LEAST, _MOST, "1 is usual; for equal weights use the sum.")
    return of_gramian(gramian, lambda matrix: fair_or_zero(matrix, 1 / alpha))
