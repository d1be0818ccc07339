"""The weighted sum of task gradients, in the precision that the weights require."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from libmtl_recon.gradients.columns import real_rows

# The number of columns converted to float64 at a time.
_CHUNK = 1 << 16
# How many times longer the weighted gradients may be, together, than their sum, before float32
# leaves too little of that sum: beyond it they cancel, and the sum could conflict by rounding.
_CANCELLING = 16.0
# Weights that float32 can hold with all of their digits, and a sum of their products.
_SMALLEST, _LARGEST = 1e-30, 1e30


def combine(weights: Tensor, gradients: Tensor, gramian: Tensor | None = None) -> Tensor:
    """Compute the weighted sum Σ weights[i] gᵢ.

    Args:
        weights: ``[T]``, float64, on the CPU.
        gradients: ``[T, d]``, any floating or complex dtype and device.
        gramian: ``[T, T]``, float64, on the CPU: the Gramian of the gradients. It shows whether
            they cancel; without it, they are assumed to.

    Returns:
        ``[d]``, in the gradients' dtype, on their device. It is summed in float64 where the
        gradients cancel, where a weight is beyond float32 (those of gradients of very different
        lengths are), and where the gradients have fewer digits than float32.
    """
    if gradients.is_complex():
        parts = combine(weights, real_rows(gradients), gramian)
        return torch.view_as_complex(parts.unflatten(0, (-1, 2)))
    device = gradients.device
    plain = gradients.dtype in (torch.float32, torch.float64)
    short = plain and gramian is not None and not wants_float64(weights, gramian)
    if device.type == "mps" or short:
        # The one device without float64 sums in float32 whatever the weights.
        wide = gradients if plain else gradients.float()
        return (weights.to(wide.dtype).to(device) @ wide).to(gradients.dtype)
    total = torch.empty(gradients.shape[1], dtype=gradients.dtype, device=device)
    there = weights.to(device)
    for part, columns in zip(total.split(_CHUNK), gradients.split(_CHUNK, dim=1), strict=True):
        part.copy_(there @ columns.double())
    return total


def wants_float64(weights: Tensor, gramian: Tensor) -> bool:
    """Return whether a weighted sum of gradients must be computed in float64.

    Args:
        weights: ``[T]``, float64, on the CPU.
        gramian: ``[T, T]``, float64, on the CPU: the Gramian of the gradients.
    """
    sizes = weights.abs()
    if bool(((sizes > _LARGEST) | ((sizes < _SMALLEST) & (sizes > 0))).any()):
        return True
    lengths = float(sizes @ gramian.diagonal().clamp_min(0.0).sqrt())
    squared = float(weights @ gramian @ weights)
    return lengths > _CANCELLING * math.sqrt(max(squared, 0.0))
