"""LibMTL's Aligned_MTL calls ``torch.symeig``, which PyTorch has removed.

Source: "Independent Component Alignment for Multi-Task Learning" (CVPR 2023), Section 4.2.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.gradients import gramian
from libmtl_recon.integrations.libmtl.features import method_source
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def aligned_weights(products: Tensor, precision: float) -> Tensor:
    """The weights that make all principal components of the gradients as long as the shortest.

    With the gradients G = U S Vᵀ, the update is the sum of the rows of σ U Vᵀ, where σ is the
    least singular value; so the weights are the column sums of σ U S⁻¹ Uᵀ.

    Args:
        products: ``[T, T]``, the Gramian G Gᵀ.
        precision: The rounding of the gradients, which tells a component that is zero.

    Returns:
        ``[T]``; ones if all gradients are zero.
    """
    squares, axes = torch.linalg.eigh(products)
    kept = squares > squares[-1] * len(squares) * precision
    if not bool(kept.any()):
        return torch.ones_like(squares)
    lengths, axes = squares[kept].sqrt(), axes[:, kept]
    weights: Tensor = lengths[0] * (axes / lengths) @ axes.sum(0)
    return weights


def backward(self: Any, losses: Tensor, **_: Any) -> NDArray[np.floating[Any]]:
    """Aligned-MTL's update; returns the weights ``[T]``."""
    grads = self._get_grads(losses, mode="backward")
    per_grads = None
    if self.rep_grad:
        per_grads, grads = grads
    weights = aligned_weights(gramian(grads), torch.finfo(grads.dtype).eps).to(grads)
    self._backward_new_grads(weights, per_grads=per_grads, grads=grads)
    found: NDArray[np.floating[Any]] = weights.cpu().numpy()
    return found


def _needed(libmtl: ModuleType) -> bool:
    return "torch.symeig" in method_source(libmtl.weighting, "Aligned_MTL", "backward")


def _apply(libmtl: ModuleType) -> None:
    libmtl.weighting.Aligned_MTL.backward = backward


PATCH = Patch(
    name="aligned-mtl-eigen",
    reason="LibMTL's Aligned_MTL calls torch.symeig, which PyTorch has removed",
    needed=_needed,
    apply=_apply,
)
