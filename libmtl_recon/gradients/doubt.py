"""Check whether the rounding of a Gramian's products could change the weights computed from it."""

from __future__ import annotations

import torch
from torch import Tensor

# The least ratio of a cosine to its error, and of an eigenvalue to the largest error.
_SIGN, _SOLVE = 10.0, 5e4
# The largest accepted error, relative to a squared length.
_MOST = 1e-5


def is_doubtful(gramian: Tensor, errors: Tensor) -> bool:
    """Return whether the errors could change a conflict, or be magnified by solving for weights.

    Args:
        gramian: ``[T, T]``, float64.
        errors: ``[T]``, float64: the relative error of each squared length; the error of an inner
            product, relative to the lengths, is the geometric mean of two.
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
