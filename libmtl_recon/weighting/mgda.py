"""MGDA, of "Multi-Task Learning as Multi-Objective Optimization" (NeurIPS 2018), Equation 4.

The update is the shortest convex combination of the task gradients. It is found on their Gramian:
by an active-set method, exactly, after a few solves of a T x T system (:mod:`least_norm`).
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
    zero where a gradient is.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        normalization: What each gradient is divided by first: ``none``, ``l2`` (its length),
            ``loss``, or ``loss+`` (their product). A 0 divides nothing.
        losses: ``[T]``, numbers, for ``loss`` and ``loss+``.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU, where that has no float64): not
        negative, of sum 1 before they are divided by what the gradients were divided by. Where
        gradients are zero, these have all the weight, in equal parts.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, there is no such
            normalisation, or it needs losses that are not given, or not T finite numbers of at
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
    """As :func:`mgda_weights`, of a Gramian in float64, on the CPU, that may hold NaN.

    Those of two tasks are by the authors' closed form, which keeps both above 0.
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
    """What each task's gradient is divided by before the weights are looked for.

    Args:
        kind: ``none``, ``l2`` (the gradient's length), ``loss``, or ``loss+`` (their product).
        lengths: ``[T]``, of the gradients.
        losses: ``[T]``.

    Returns:
        ``[T]``, in the lengths' dtype; 1 in the place of a 0, by which nothing can be divided.

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
