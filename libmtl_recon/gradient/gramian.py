"""Gramians of task gradients, whole and per layer, and the cosines in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Entries turned to float64 at a time. On a CPU they stay in the cache of a core until the product
# has been taken (1 MiB); elsewhere they are many, since each product is a call.
_CACHED, _ELSEWHERE = 1 << 17, 1 << 24


def gramian(gradients: Tensor) -> Tensor:
    """The Gramian of the rows: entry (i, j) is the dot product of rows i and j.

    Args:
        gradients: ``[T, d]``, any floating dtype.

    Returns:
        ``[T, T]``, float64, symmetric, on the same device (see :func:`exact_device`).
    """
    tasks, device = gradients.shape[0], exact_device(gradients.device)
    total = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
    entries = _CACHED if device.type == "cpu" else _ELSEWHERE
    for chunk in gradients.split(max(entries // max(tasks, 1), 1), dim=1):
        wide = chunk.to(device=device, dtype=torch.float64)
        total.addmm_(wide, wide.T)
    return total


def exact_device(device: torch.device) -> torch.device:
    """Where float64 values that belong to a device are kept: MPS has none, so on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def layer_gramians(gradients: Tensor, widths: Sequence[int]) -> Tensor:
    """One Gramian a layer, where a layer is a run of neighbouring columns.

    Args:
        gradients: ``[T, d]``, any floating dtype.
        widths: The layers' column counts, L of them; they add up to d.

    Returns:
        ``[L, T, T]``, float64, on the same device (see :func:`exact_device`).
    """
    return torch.stack([gramian(layer) for layer in gradients.split(list(widths), dim=1)])


def isometric_rows(gramian: Tensor) -> Tensor:
    """T vectors of T numbers with given inner products.

    Args:
        gramian: ``[T, T]``, float64, symmetric, finite, of any T vectors.

    Returns:
        ``[T, T]``, float64: R with R Rᵀ = gramian, up to a rounding of each entry that is
        relative to the lengths of its two vectors.
    """
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    # Unit diagonal, so that short vectors are not lost beside long ones; 0/0 for those of zero.
    cosine = (gramian / norms / norms[:, None]).nan_to_num(0.0, 0.0, 0.0)
    squares, axes = torch.linalg.eigh((cosine + cosine.T) / 2)
    root: Tensor = (axes * squares.clamp_min(0.0).sqrt()) @ axes.T
    return norms[:, None] * root


def cosines(gramians: Tensor) -> Tensor:
    """The cosine of each pair of tasks.

    Args:
        gramians: ``[..., T, T]``, float64.

    Returns:
        ``[..., P]``, float64, in [-1, 1], for the P = T(T-1)/2 pairs i < j in the order (0, 1),
        (0, 2), …, (1, 2), …; NaN where one of the two gradients is zero.
    """
    tasks = gramians.shape[-1]
    first, second = torch.triu_indices(tasks, tasks, offset=1, device=gramians.device)
    norms = gramians.diagonal(dim1=-2, dim2=-1).sqrt()
    # Divided twice: the product of two tiny norms could underflow where neither does.
    cosine = gramians[..., first, second] / norms[..., first] / norms[..., second]
    return cosine.clamp(-1.0, 1.0)
