"""PCGrad, Algorithm 1 of "Gradient Surgery for Multi-Task Learning" (NeurIPS 2020).

Each task's gradient is projected, for one other task after another, onto the normal planes of the
gradients that it conflicts with. The result is a combination of the T gradients, so it is computed
from their Gramian: a projection costs T operations instead of d, and all tasks are projected in
parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.weighting.checked_gramian import check_gramian
from libmtl_recon.weighting.checking import check_number, check_orders
from libmtl_recon.weighting.orders import draw_orders

_NONE = "Leave it out for none."


def pcgrad_weights(
    gramian: Any,
    orders: Sequence[Sequence[int]] | None = None,
    guard: float = 0.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the weights of the task gradients whose combination is PCGrad's update.

    ``weights @ gradients`` is Σ gᵢ^PC (the sum, as in the paper's Algorithm 1).

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised
            (:func:`libmtl_recon.gradients.gramian` makes one of any gradients).
        orders: T lists of the same length: the tasks that task i is compared with, in that order.
            Task i may be in its own list. Default: random orders of the other tasks, as in the
            paper.
        guard: A constant that is added to ‖gⱼ‖² in the denominator.
        generator: The random generator for the orders. Default: PyTorch's own on the CPU.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64), at least 1
        each.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, the orders are not T
            lists of the same length, the guard is negative, or the generator is not a
            ``torch.Generator``.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
        >>> weights = pcgrad_weights(gradients @ gradients.T)
        >>> (weights @ gradients.double()).tolist()  # (½, ½) + (0, 1)
        [0.5, 1.5]
    """
    matrix = check_gramian(gramian)
    drawn = draw_orders(len(matrix), generator) if orders is None else orders
    places = check_orders(drawn, len(matrix))
    number = check_number("guard", guard, 0.0, way_out=_NONE)
    return projected(matrix.cpu(), places, number).to(matrix.device)


def projected(matrix: Tensor, orders: Sequence[Sequence[int]], guard: float) -> Tensor:
    """Compute :func:`pcgrad_weights` of a Gramian in float64, which may hold NaN."""
    own = torch.arange(len(matrix), device=matrix.device)
    lengths = matrix.diagonal() + guard
    coefficients = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    # Entry (i, j): the dot product of task i's gradient, as projected so far, with gⱼ.
    products = matrix.clone()
    for others in torch.tensor(orders, device=matrix.device).T:
        along = products[own, others]
        # The length of a gradient whose square underflows its dtype is 0.
        against = (along < 0) & (lengths[others] > 0)
        removed = torch.where(against, along / lengths[others], 0.0)
        coefficients[own, others] -= removed
        products -= removed[:, None] * matrix[others]
    return coefficients.sum(dim=0)
