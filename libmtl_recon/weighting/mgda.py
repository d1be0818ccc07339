"""MGDA, of "Multi-Task Learning as Multi-Objective Optimization" (NeurIPS 2018), Equation 4.

The update is the shortest convex combination of the task gradients. It is computed from their
Gramian by an active-set method, exactly, with a few solves of a T x T system (:mod:`least_norm`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.weighting.checked_gramian import of_gramian
from libmtl_recon.weighting.checking import loss_values
from libmtl_recon.weighting.least_norm import least_norm_weights

# The least weight of one of two tasks, in the authors' code.
_LEAST = 0.001
NORMALISERS = ("none", "l2", "loss", "loss+")


def mgda_weights(
    gramian: Any,
    *,
    normalization: str = "none",
    losses: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """Return the weights of the task gradients whose combination is MGDA's update.

    The update is the shortest convex combination of the gradients. It increases no loss, and is
    zero if a gradient is zero.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        normalization: The divisor of each gradient: ``none``, ``l2`` (its length), ``loss``, or
            ``loss+`` (the product of length and loss). A divisor of 0 is replaced by 1.
        losses: ``[T]``, numbers, needed for ``loss`` and ``loss+``.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64), not negative,
        of sum 1 before the division by the gradients' divisors. If gradients are zero, the weight
        is distributed equally among these.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, there is no such
            normalisation, or it needs losses and they are missing or not T finite numbers of at
            least 0.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> mgda_weights(gradients @ gradients.T).round(decimals=4).tolist()
        [0.2, 0.8]
    """

    def solve(matrix: Tensor) -> Tensor:
        lengths = matrix.diagonal().clamp_min(0.0).sqrt()
        known = lengths
        if normalization in ("loss", "loss+"):
            known = loss_values("losses", losses, len(matrix))
        divided = normalisers(normalization, lengths, known)
        scaled = matrix / divided / divided[:, None]
        return torch.from_numpy(least_norm_weights(scaled.numpy())) / divided

    return of_gramian(gramian, solve)


def shortest(matrix: Tensor) -> Tensor:
    """Compute :func:`mgda_weights` of a Gramian in float64, on the CPU, which may hold NaN.

    For two tasks this is the authors' closed form, which keeps both weights above 0.
    """
    if len(matrix) != 2:
        return torch.from_numpy(least_norm_weights(matrix.numpy()))
    (first, both), (_, second) = matrix.tolist()
    if both >= first:
        weight = 1 - _LEAST
    elif both >= second:
        weight = _LEAST
    else:
        weight = (second - both) / (first + second - 2 * both)
    return torch.tensor([weight, 1 - weight], dtype=matrix.dtype)


def normalisers(kind: str, lengths: Tensor, losses: Tensor) -> Tensor:
    """Return the divisors of the task gradients before the weights are computed.

    Args:
        kind: ``none``, ``l2`` (the gradient's length), ``loss``, or ``loss+`` (their product).
        lengths: ``[T]``, the lengths of the gradients.
        losses: ``[T]``.

    Returns:
        ``[T]``, in the lengths' dtype; 1 instead of 0.

    Raises:
        UsageError: There is no such kind.
    """
    if kind not in NORMALISERS:
        raise UsageError(
            "normalization",
            f"must be one of {', '.join(NORMALISERS)}",
            kind,
            "Leave it out for no normalization.",
        )
    if kind == "none":
        return torch.ones_like(lengths)
    known = losses.detach().to(lengths)
    found = {"l2": lengths, "loss": known, "loss+": known * lengths}[kind]
    return torch.where(found == 0, 1.0, found)
