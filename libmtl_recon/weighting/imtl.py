"""IMTL-G, of "Towards Impartial Multi-task Learning" (ICLR 2021), Section 3.1.

The update has the same projection onto each task's gradient. Its weights solve a linear system in T
unknowns. It is solved in units of the gradients' lengths and by a pseudo-inverse, since it may have
no solution, or several.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from libmtl_recon.weighting.checked_gramian import of_gramian

# Singular values of the matrix of cosines below the first belong to dependent gradients; the second
# is the tolerance of a solution.
_DEPENDENT, _SOLVED = 1e-12, 1e-6


def imtl_g_weights(gramian: Any) -> Tensor:
    """Return the weights of the task gradients whose combination is IMTL-G's update.

    The update has the same projection onto every gradient, and the sum of its weights is 1
    (Equation 1). Weights may be negative. For three or more tasks whose gradients differ in length,
    the common projection may be negative as well, and the update then increases every loss: the
    paper's condition allows this.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64), of sum 1. The
        weight of a gradient of zero is 0; all weights are equal if all gradients are zero. If there
        are several solutions (parallel gradients), it is the one of least norm in units of the
        gradients' lengths; if a combination with weights of sum 1 is zero (opposite gradients), its
        weights. All weights are 0 if there is no solution of sum 1.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> imtl_g_weights(gradients @ gradients.T).round(decimals=4).tolist()
        [0.25, 0.75]
    """
    return of_gramian(gramian, impartial)


def impartial(products: Tensor) -> Tensor:
    """Compute :func:`imtl_g_weights` of a Gramian in float64, on the CPU, which may hold NaN."""
    tasks = len(products)
    norms = products.diagonal().clamp_min(0.0).sqrt()
    there = norms > 0
    if not bool(there.any()) or not bool(torch.isfinite(products).all()):
        return torch.full_like(norms, 1 / tasks)
    own = norms[there]
    shares = own.min() / own  # the coefficients of β = α n in the sum of α
    cosine = products[there][:, there] / own / own[:, None]
    ones = torch.ones_like(own)
    parts = torch.linalg.pinv(cosine, rtol=_DEPENDENT, hermitian=True) @ ones
    solved = torch.allclose(cosine @ parts, ones, rtol=0, atol=_SOLVED)
    weights = torch.zeros_like(norms)
    if not solved or (shares @ parts).abs() <= _DEPENDENT * (shares @ parts.abs()):
        # Then all projections are 0, since some combination of the gradients is zero.
        cancelling = _cancelling(cosine, shares)
        if cancelling is None:
            return weights
        parts = cancelling
    weights[there] = parts * shares / (shares @ parts)
    return weights


def _cancelling(cosine: Tensor, shares: Tensor) -> Tensor | None:
    """Return the β of a combination with equal projections and Σ shares β = 1, or None."""
    count = len(cosine)
    system = cosine.new_zeros(count + 1, count + 1)
    system[:-1, :-1] = cosine
    system[:-1, -1] = -1.0
    system[-1, :-1] = shares
    goal = cosine.new_zeros(count + 1, 1)
    goal[-1] = 1.0
    # By singular values, since rounding leaves some slightly above zero.
    solution = torch.linalg.lstsq(system, goal, rcond=_DEPENDENT, driver="gelsd").solution
    solved = torch.allclose(system @ solution, goal, rtol=0, atol=_SOLVED)
    return solution[:-1, 0] if solved else None
