"""Whether the rounding of a Gramian's products could matter to those who weigh by it."""

from __future__ import annotations

import torch
from torch import Tensor

# How many times their error cosines must be, and how many times the largest error the eigenvalues.
_SIGN, _SOLVE = 10.0, 5e4
# What is never to be had: of a squared length.
_MOST = 1e-5


def is_doubtful(gramian: Tensor, errors: Tensor) -> bool:
    """Whether errors leave it open who conflicts, or could be magnified by solving for weights.

    Args:
        gramian: ``[T, T]``, float64.
        errors: ``[T]``, float64: of each squared length, relative to it; an inner product's is the
            geometric mean of two, relative to the lengths.
    """
    if not bool(torch.isfinite(gramian).all()):
        return True
    norms = gramian.diagonal().clamp_min(0.0).sqrt()
    there = norms > 0
    if not bool(there.any()):
        return False
    norms, errors = norms[there], errors[there]
    cosine = gramian[there][:, there] / norms / norms[:, None]
    apart = cosine.abs() + torch.eye(len(cosine), dtype=cosine.dtype, device=cosine.device)
    sizes = errors.sqrt()
    largest = float(errors.max())
    if largest > _MOST or bool((apart < _SIGN * sizes * sizes[:, None]).any()):
        return True
    return float(torch.linalg.eigvalsh(cosine)[0]) < _SOLVE * largest
