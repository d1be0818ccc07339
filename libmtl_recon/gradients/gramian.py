"""Gramians of task gradients, whole and per layer, and the cosines in them.

The inner product of complex gradients is the real one, Re Σ aₖ b̄ₖ: that of their real and
imaginary parts, which is what an optimiser's step uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients.columns import real_rows
from libmtl_recon.gradients.doubt import is_doubtful

# The number of entries converted to float64 at a time. On a CPU they stay in the cache of a core
# until they are multiplied (1 MiB); on other devices there are more, since each product is a call.
_CACHED, _ELSEWHERE = 1 << 17, 1 << 24
# The number of columns whose products may be summed in float32.
_BLOCK = 1 << 11
# The error of float32 products of one block at a time, relative to the lengths.
_IN_BLOCKS = 1e-6
# The range of squared lengths outside which a float32 product may lose digits, or overflow.
_SMALLEST, _LARGEST = 1e-25, 1e37


def gramian(gradients: Tensor) -> Tensor:
    """Compute the Gramian of the rows, whose entry (i, j) is the dot product of rows i and j.

    Args:
        gradients: ``[T, d]``, any floating or complex dtype.

    Returns:
        ``[T, T]``, float64, symmetric, on the same device (see :func:`exact_device`).
    """
    gradients = real_rows(gradients)
    tasks, device = gradients.shape[0], exact_device(gradients.device)
    total = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
    entries = _CACHED if device.type == "cpu" else _ELSEWHERE
    for chunk in gradients.split(max(entries // max(tasks, 1), 1), dim=1):
        wide = chunk.to(device=device, dtype=torch.float64)
        total.addmm_(wide, wide.T)
    return total


def quick_gramian(gradients: Tensor) -> Tensor:
    """Compute the Gramian by float32 products where these suffice, otherwise by :func:`gramian`.

    This takes half the time on a CPU, with errors below 1e-6 of the product of two gradients'
    lengths. That does not suffice where two gradients are so nearly orthogonal that the error could
    change whether they conflict, or where gradients are so nearly dependent that solving for
    weights would magnify it: then, for other dtypes, and on other devices, all is computed in
    float64.

    Args:
        gradients: ``[T, d]``, any floating or complex dtype.

    Returns:
        ``[T, T]``, float64, symmetric, on the same device (see :func:`exact_device`).
    """
    gradients = real_rows(gradients)
    if gradients.dtype != torch.float32 or gradients.device.type != "cpu":
        return gramian(gradients)
    found = _in_blocks(gradients)
    errors = torch.full((len(found),), _IN_BLOCKS, dtype=torch.float64)
    return gramian(gradients) if is_doubtful(found, errors) else (found + found.T) / 2


def exact_device(device: torch.device) -> torch.device:
    """Return the device for float64 values of a device: the CPU for MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def layer_gramians(gradients: Tensor, widths: Sequence[int]) -> Tensor:
    """Compute one Gramian per layer, where a layer is a group of adjacent columns.

    On a CPU, float32 gradients are multiplied in float32, one block of columns at a time, and only
    the blocks' products are summed in float64. That halves the time; the error of an entry is about
    1e-6 of the product of its two vectors' lengths, while cosines are counted in steps of 5e-3.

    Args:
        gradients: ``[T, d]``, any floating or complex dtype.
        widths: The number of columns of each of the L layers; their sum is d.

    Returns:
        ``[L, T, T]``, float64, on the same device (see :func:`exact_device`).

    Raises:
        UsageError: The sum of the widths is not d.
    """
    if gradients.ndim != 2 or sum(widths) != gradients.shape[1]:
        raise UsageError(
            "widths",
            f"must add up to the columns of gradients [T, d], whose shape is "
            f"{list(gradients.shape)}",
            list(widths),
            "Pass the number of columns of each layer.",
        )
    if gradients.is_complex():
        widths = [2 * width for width in widths]
    gradients = real_rows(gradients)
    in_blocks = gradients.dtype == torch.float32 and gradients.device.type == "cpu"
    of_layer = _in_blocks if in_blocks else gramian
    return torch.stack([of_layer(layer) for layer in gradients.split(list(widths), dim=1)])


def _in_blocks(gradients: Tensor) -> Tensor:
    whole = gradients.shape[1] // _BLOCK
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    if whole:
        blocks = gradients[:, : whole * _BLOCK].unflatten(1, (whole, _BLOCK)).transpose(0, 1)
        total += torch.bmm(blocks, blocks.transpose(1, 2)).sum(dim=0, dtype=torch.float64)
    rest = gradients[:, whole * _BLOCK :]
    total += rest @ rest.T
    squares = total.diagonal()
    # Very short or long gradients leave float32's range when they are squared.
    if bool(((squares > _SMALLEST) & (squares < _LARGEST)).all()):
        return total
    return gramian(gradients)


def isometric_rows(gramian: Tensor) -> Tensor:
    """Compute T vectors of T numbers with given inner products.

    Args:
        gramian: ``[T, T]``, float64, symmetric, finite: the Gramian of any T vectors.

    Returns:
        ``[T, T]``, float64: R with R Rᵀ = gramian, up to rounding of each entry relative to the
        lengths of its two vectors.
    """
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    # Unit diagonal, so that short vectors are not lost beside long ones; 0/0 for those of zero.
    cosine = (gramian / norms / norms[:, None]).nan_to_num(0.0, 0.0, 0.0)
    squares, axes = torch.linalg.eigh((cosine + cosine.T) / 2)
    root: Tensor = (axes * squares.clamp_min(0.0).sqrt()) @ axes.T
    return norms[:, None] * root


def cosines(gramians: Tensor) -> Tensor:
    """Compute the cosine of each pair of tasks.

    Args:
        gramians: ``[..., T, T]``, float64; if complex, the real part is used.

    Returns:
        ``[..., P]``, float64, in [-1, 1], for the P = T(T-1)/2 pairs i < j in the order (0, 1),
        (0, 2), …, (1, 2), …; NaN where one of the two gradients is zero.
    """
    gramians, tasks = gramians.real, gramians.shape[-1]
    first, second = torch.triu_indices(tasks, tasks, offset=1, device=gramians.device)
    norms = gramians.diagonal(dim1=-2, dim2=-1).sqrt()
    # Divided twice: the product of two tiny norms could underflow where neither does.
    cosine = gramians[..., first, second] / norms[..., first] / norms[..., second]
    return cosine.clamp(-1.0, 1.0)
