"""LibMTL's GLS multiplies the losses before it takes their root, and reports wrong weights.

The product leaves the range of float32 long before the geometric mean does (five losses of 1e-9,
or of 1e8), after which all is NaN; so it is with a loss of zero. This one works with logarithms.

Source: "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task
Learning" (CVPR 2019 workshop).
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def geometric_weights(losses: Tensor) -> Tensor:
    """The gradient of the losses' geometric mean with respect to them, mean / (T loss).

    Args:
        losses: ``[T]``, none negative. If one is zero, so is their geometric mean, which can be
            no smaller: the gradient is taken to be zero.

    Returns:
        ``[T]``.
    """
    logs = losses.log()
    weights = (logs.mean() - logs).exp() / len(losses)
    return torch.where((losses == 0).any(), torch.zeros_like(weights), weights)


def backward(self: Any, losses: Tensor, **_: Any) -> NDArray[np.floating[Any]]:
    """GLS's backward pass; returns the weights ``[T]``.

    Raises:
        UsageError: A loss is negative.
    """
    values = losses.detach()
    if bool((values < 0).any()):
        raise UsageError(
            "--weighting GLS",
            "needs losses of at least 0, since it takes their geometric mean",
            values.tolist(),
            "Use another weighting, or losses that cannot be negative.",
        )
    weights = geometric_weights(values)
    (weights * losses).sum().backward()
    found: NDArray[np.floating[Any]] = weights.cpu().numpy()
    return found


def _needed(libmtl: ModuleType) -> bool:
    return "losses.prod()" in source_of(libmtl.weighting.GLS.backward)


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.GLS.backward
    libmtl.weighting.GLS.backward = functools.wraps(original)(backward)


PATCH = Patch(
    name="gls-logarithms",
    reason="LibMTL's GLS multiplies all losses, which overflows, or vanishes, and then gives NaN",
    needed=_needed,
    apply=_apply,
)
