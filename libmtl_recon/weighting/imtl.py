"""IMTL, of "Towards Impartial Multi-task Learning" (ICLR 2021), Section 3.1: its gradients' part.

The update has the same projection onto each task's gradient. Its weights solve a linear system in T
numbers, which is solved in units of the gradients' lengths and by a pseudo-inverse, for it need not
have a solution, or only one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from libmtl_recon.weighting.checked_gramian import of_gramian

# Singular values of the cosines' matrix below this are those of dependent gradients, and a system
# counts as solved up to this.
_DEPENDENT, _SOLVED = 1e-12, 1e-6


def imtl_g_weights(gramian: Any) -> Tensor:
    """Return the weights of the task gradients whose combination is IMTL-G's update.

    The update has the same projection onto every gradient, and its weights have sum 1 (Equation 1).
    Weights may be negative; where gradients of three or more tasks differ in length, so may be the
    common projection, and then the update increases every loss: the paper's condition allows it.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU, where that has no float64), of sum 1;
        0 for a gradient of zero, all alike if all are. Where several would do (parallel gradients),
        those of the least norm in units of the gradients' lengths; where gradients of sum 1 cancel
        (opposite ones), those that combine them to zero. All 0 where none of sum 1 are impartial.

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
    """As :func:`imtl_g_weights`, of a Gramian in float64, on the CPU, that may hold NaN."""
    tasks = len(products)
    norms = products.diagonal().clamp_min(0.0).sqrt()
    there = norms > 0
    if not bool(there.any()) or not bool(torch.isfinite(products).all()):
        return torch.full_like(norms, 1 / tasks)
    own = norms[there]
    shares = own.min() / own  # what β = α n counts for in the sum of α
    cosine = products[there][:, there] / own / own[:, None]
    ones = torch.ones_like(own)
    parts = torch.linalg.pinv(cosine, rtol=_DEPENDENT, hermitian=True) @ ones
    solved = torch.allclose(cosine @ parts, ones, rtol=0, atol=_SOLVED)
    weights = torch.zeros_like(norms)
    if not solved or (shares @ parts).abs() <= _DEPENDENT * (shares @ parts.abs()):
        # All projections are 0 then: some combination of the gradients is.
        cancelling = _cancelling(cosine, shares)
        if cancelling is None:
            return weights
        parts = cancelling
    weights[there] = parts * shares / (shares @ parts)
    return weights


def _cancelling(cosine: Tensor, shares: Tensor) -> Tensor | None:
    """The β that combine the vectors to equal projections, with Σ shares β = 1, or None."""
    count = len(cosine)
    system = cosine.new_zeros(count + 1, count + 1)
    system[:-1, :-1] = cosine
    system[:-1, -1] = -1.0
    system[-1, :-1] = shares
    goal = cosine.new_zeros(count + 1, 1)
    goal[-1] = 1.0
    # By singular values, of which rounding leaves some just above zero.
    solution = torch.linalg.lstsq(system, goal, rcond=_DEPENDENT, driver="gelsd").solution
    solved = torch.allclose(system @ solution, goal, rtol=0, atol=_SOLVED)
    return solution[:-1, 0] if solved else None
