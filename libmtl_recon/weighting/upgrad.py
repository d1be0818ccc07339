"""UPGrad, of "Jacobian Descent For Multi-Objective Optimization" (2024), Section 3.

Each task gradient is projected onto the dual cone of all task gradients; the update is the mean of
the projections, or their weighted sum. Neither regularisation nor a minimum length is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from libmtl_recon.weighting.checked_gramian import of_gramian
from libmtl_recon.weighting.checking import check_preference
from libmtl_recon.weighting.dual_cone import dual_cone_weights


def upgrad_weights(gramian: Any, *, preference: Sequence[float] | None = None) -> Tensor:
    """Return the weights of the task gradients whose combination is UPGrad's update.

    The update conflicts with no gradient. It is the mean gradient if no two gradients conflict.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        preference: T numbers of at least 0, the weights of the projections in the sum. Default: 1/T
            each.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64), each at least
        the preference.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, or the preference is not
            T finite numbers of at least 0.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> weights = upgrad_weights(gradients @ gradients.T)
        >>> (weights @ gradients.double()).tolist()  # half of (½, ½) + (0, 1)
        [0.25, 0.75]
    """
    return of_gramian(gramian, lambda matrix: unconflicting(matrix, preference))


def unconflicting(matrix: Tensor, preference: Sequence[float] | None = None) -> Tensor:
    """Compute :func:`upgrad_weights` of a finite Gramian in float64, on the CPU."""
    tasks = len(matrix)
    shares = np.full(tasks, 1 / tasks)
    if preference is not None:
        shares = check_preference(preference, tasks).numpy()
    products, total = matrix.numpy(), np.zeros(tasks)
    for own in np.diag(shares):
        total += dual_cone_weights(products, own)
    return torch.from_numpy(total)
