"""Aligned-MTL, of "Independent Component Alignment for Multi-Task Learning" (CVPR 2023).

Section 4.2: with the gradients G = U S Vᵀ, the update is the sum of the rows of σ U Vᵀ, where σ is
the least singular value: all principal components become as long as the shortest.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from libmtl_recon.weighting.checking import check_gramian

_FLOAT32 = torch.finfo(torch.float32).eps


def aligned_mtl_weights(gramian: Any, precision: float = _FLOAT32) -> Tensor:
    """The weights of the original gradients whose combination is Aligned-MTL's update.

    Args:
        gramian: ``[T, T]``, dot products of the task gradients: a tensor of any real dtype, a
            NumPy array or a list of lists; float64 is advised.
        precision: The rounding of the gradients, which tells a component that is zero; by default
            that of float32.

    Returns:
        ``[T]``, float64, on the CPU; ones if all gradients are zero.

    Raises:
        UsageError: The Gramian is not a symmetric matrix of finite numbers.
    """
    return aligned(check_gramian(gramian).cpu(), precision)


def aligned(products: Tensor, precision: float) -> Tensor:
    """As :func:`aligned_mtl_weights`, of a Gramian in float64 that is not looked at.

    The weights are the column sums of σ U S⁻¹ Uᵀ.
    """
    squares, axes = torch.linalg.eigh(products)
    kept = squares > squares[-1] * len(squares) * precision
    if not bool(kept.any()):
        return torch.ones_like(squares)
    lengths, axes = squares[kept].sqrt(), axes[:, kept]
    weights: Tensor = lengths[0] * (axes / lengths) @ axes.sum(0)
    return weights
