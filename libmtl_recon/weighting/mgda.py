"""MGDA, of "Multi-Task Learning as Multi-Objective Optimization" (NeurIPS 2018), Equation 4.

The update is the shortest convex combination of the task gradients. It is found on their Gramian:
by an active-set method, exactly, after a few solves of a T x T system (:mod:`least_norm`), and for
two tasks by the authors' closed form, which keeps both weights above 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.weighting.checking import check_gramian
from libmtl_recon.weighting.least_norm import least_norm_weights

# The least weight of one of two tasks, in the authors' code.
_LEAST = 0.001
NORMALISERS = ("none", "l2", "loss", "loss+")


def mgda_weights(gramian: Any) -> Tensor:
    """The weights of the original gradients whose combination is MGDA's update.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.

    Returns:
        ``[T]``, float64, on the CPU: not negative, of sum 1.

    Raises:
        UsageError: The Gramian is not a symmetric matrix of finite numbers.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> [round(weight, 3) for weight in mgda_weights(gradients @ gradients.T).tolist()]
        [0.2, 0.8]
    """
    return shortest(check_gramian(gramian).cpu())


def shortest(matrix: Tensor) -> Tensor:
    """As :func:`mgda_weights`, of a Gramian in float64, on the CPU, that may hold NaN."""
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
            "mgda_gn", f"must be one of {', '.join(NORMALISERS)}", kind, "Leave it out for none."
        )
    if kind == "none":
        return torch.ones_like(lengths)
    known = losses.detach().to(lengths)
    found = {"l2": lengths, "loss": known, "loss+": known * lengths}[kind]
    return torch.where(found == 0, 1.0, found)
