"""Aligned-MTL, of "Independent Component Alignment for Multi-Task Learning" (CVPR 2023).

Section 4.2: for the gradients G = U S Vᵀ, the update is the sum of the rows of σ U Vᵀ, where σ is
the smallest singular value: all principal components get the length of the shortest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.weighting.checked_gramian import of_gramian
from libmtl_recon.weighting.checking import check_number, check_preference

# The relative precision of a Gramian in float64.
_RESOLVED = 1e-12


def aligned_mtl_weights(
    gramian: Any,
    precision: float | None = None,
    *,
    preference: Sequence[float] | None = None,
) -> Tensor:
    """Return the weights of the task gradients whose combination is Aligned-MTL's update.

    The update is the sum of the aligned gradients, which are orthogonal and of the same length.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        precision: An eigenvalue of the Gramian below this, times T times the largest one, counts as
            zero, and its component is left out. Default: the machine epsilon of the Gramian's
            dtype, at least 1e-12.
        preference: T numbers of at least 0, the weights of the aligned gradients in the sum.
            Default: 1 each.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64); the
        preference if all gradients are zero.

    Raises:
        UsageError: The Gramian is not a Gramian matrix of finite numbers, the precision is not from
            0 to 1, or the preference is not T finite numbers of at least 0.

    Example:
        >>> import torch
        >>> gradients = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> weights = aligned_mtl_weights(gradients @ gradients.T)
        >>> [round(value, 6) for value in (weights @ gradients.double()).tolist()]
        [1.0, 1.0]
    """
    dtype = gramian.dtype if isinstance(gramian, Tensor) else torch.float64
    rounding = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    least = max(rounding, _RESOLVED)
    if precision is not None:
        least = check_number(
            "precision", precision, 0.0, 1.0, "Leave it out to use the precision of the dtype."
        )

    def solve(matrix: Tensor) -> Tensor:
        shares = None if preference is None else check_preference(preference, len(matrix))
        return aligned(matrix, least, shares)

    return of_gramian(gramian, solve)


def aligned(products: Tensor, precision: float, preference: Tensor | None = None) -> Tensor:
    """Compute :func:`aligned_mtl_weights` of a Gramian in float64, without checking it.

    The weights are σ U S⁻¹ Uᵀ times the preference.
    """
    shares = torch.ones_like(products[0]) if preference is None else preference
    squares, axes = torch.linalg.eigh(products)
    kept = squares > squares[-1] * len(squares) * precision
    if not bool(kept.any()):
        return shares.clone()
    lengths, axes = squares[kept].sqrt(), axes[:, kept]
    weights: Tensor = lengths[0] * (axes / lengths) @ (axes.T @ shares)
    return weights
