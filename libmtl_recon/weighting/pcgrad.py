"""PCGrad, Algorithm 1 of "Gradient Surgery for Multi-Task Learning" (NeurIPS 2020).

Each task's gradient is projected, task after task, onto the normal plane of those that it
conflicts with. All that comes out is a combination of the T gradients, so it is done on their
Gramian: a projection costs T operations instead of d, and all tasks are projected side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.weighting.checking import check_gramian, check_number, check_orders

_NONE = "Leave it out for none."


def pcgrad_weights(gramian: Any, orders: Sequence[Sequence[int]], guard: float = 0.0) -> Tensor:
    """The weights of the original gradients whose combination is PCGrad's update.

    ``weights @ gradients`` is Σ gᵢ^PC (the sum, as the paper's Algorithm 1 has it).

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised
            (:func:`libmtl_recon.gradients.gramian` makes one of any gradients).
        orders: T of the same length: the tasks that task i is compared with, in that order. The
            paper draws them at random. Task i may be among its own.
        guard: Added to ‖gⱼ‖² where it divides.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU, where that has no float64).

    Raises:
        UsageError: The Gramian is not a symmetric matrix of finite numbers, the orders are not T of
            the same length, or the guard is negative.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> weights = pcgrad_weights(gradients @ gradients.T, orders=[[1], [0]])
        >>> (weights @ gradients.double()).tolist()  # (½, ½) + (0, 1)
        [0.5, 1.5]
    """
    matrix = check_gramian(gramian)
    return projected(
        matrix, check_orders(orders, len(matrix)), check_number("guard", guard, 0.0, way_out=_NONE)
    )


def projected(matrix: Tensor, orders: Sequence[Sequence[int]], guard: float) -> Tensor:
    """As :func:`pcgrad_weights`, of a Gramian in float64 that may hold NaN."""
    own = torch.arange(len(matrix), device=matrix.device)
    lengths = matrix.diagonal() + guard
    coefficients = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    # Entry (i, j): the dot product of task i's gradient, as far as it is projected, with gⱼ.
    products = matrix.clone()
    for others in torch.tensor(orders, device=matrix.device).T:
        along = products[own, others]
        removed = torch.where(along < 0, along / lengths[others], 0.0)
        coefficients[own, others] -= removed
        products -= removed[:, None] * matrix[others]
    return coefficients.sum(dim=0)
