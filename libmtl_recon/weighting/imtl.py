"""IMTL, of "Towards Impartial Multi-task Learning" (ICLR 2021), Section 3.1: its gradients' part.

The update has the same projection onto each task's gradient. Its weights solve a linear system in T
numbers, which is solved in units of the gradients' lengths and by a pseudo-inverse, for it need not
have a solution, or only one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from libmtl_recon.weighting.checking import check_gramian

# Singular values of the cosines' matrix below this are those of dependent gradients, and a system
# counts as solved up to this.
_DEPENDENT, _SOLVED = 1e-12, 1e-6


def imtl_weights(gramian: Any) -> Tensor:
    """The weights of the original gradients whose combination is IMTL's update.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.

    Returns:
        ``[T]``, float64, on the CPU, of sum 1; 0 for a gradient of zero, all alike if all are.
        Where several would do (parallel gradients), those of the least norm in units of the
        gradients' lengths.

    Raises:
        UsageError: The Gramian is not a symmetric matrix of finite numbers.
    """
    return impartial(check_gramian(gramian).cpu())


def impartial(products: Tensor) -> Tensor:
    """As :func:`imtl_weights`, of a Gramian in float64, on the CPU, that may hold NaN."""
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
    if not torch.allclose(cosine @ parts, ones, rtol=0, atol=_SOLVED) or shares @ parts == 0:
        # All projections are 0 then: some combination of the gradients is.
        parts = _cancelling(cosine, shares)
    weights = torch.zeros_like(norms)
    weights[there] = parts * shares / (shares @ parts)
    return weights


def _cancelling(cosine: Tensor, shares: Tensor) -> Tensor:
    """The β that combine the vectors to as little as can be, with Σ shares β = 1."""
    count = len(cosine)
    system = cosine.new_zeros(count + 1, count + 1)
    system[:-1, :-1] = cosine
    system[:-1, -1] = -1.0
    system[-1, :-1] = shares
    goal = cosine.new_zeros(count + 1, 1)
    goal[-1] = 1.0
    # By singular values, of which rounding leaves some just above zero.
    solution = torch.linalg.lstsq(system, goal, rcond=_DEPENDENT, driver="gelsd").solution
    return solution[:-1, 0]  # type: ignore[no-any-return]
