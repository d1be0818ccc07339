"""LibMTL's ExcessMTL zeroes the gradients of an ``encoder``, which MMoE, CGC and DSelect_k lack.

And where a task's gradient is zero in the first step, it divides by it: all parameters are NaN.

Source: "Robust Multi-Task Learning with Excess Risks" (ICML 2024), Algorithm 1.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.features import method_source
from libmtl_recon.integrations.libmtl.patches.patch import Patch
from libmtl_recon.integrations.libmtl.step.step import task_rows

# LibMTL's guard against a root of zero.
_TINY = 1e-7


def excess_risks(gradients: Tensor, roots: Tensor) -> Tensor:
    """What each task's loss is estimated to lie above its least: g H⁻¹ gᵀ.

    Args:
        gradients: ``[T, d]``.
        roots: ``[T, d]``, the roots of the sums of the squares of all gradients so far, which
            stand for the diagonal of H.

    Returns:
        ``[T]``, float64.
    """
    # No square is formed, which could leave float32 where the gradient does not.
    guarded = torch.hypot(roots, roots.new_tensor(_TINY**0.5))
    return (gradients * (gradients / guarded)).sum(1, dtype=torch.float64)


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.floating[Any]]:
    """ExcessMTL's backward pass; returns the weights ``[T]``."""
    # Not by LibMTL's own function: with `rep_grad`, which is refused, that gives something else.
    gradients = task_rows(self, losses, accumulate=False)
    if self.grad_sum is None:
        self.grad_sum = torch.zeros_like(gradients)
    # LibMTL's name; here it is the root of the sum.
    self.grad_sum = torch.hypot(self.grad_sum, gradients)
    risks = excess_risks(gradients, self.grad_sum)
    if self.first_epoch:
        self.initial_w, self.first_epoch = risks, False
    else:
        # A task without any at first has no measure for what it has now.
        ratios = torch.where(self.initial_w > 0, risks / self.initial_w, 0.0)
        powers = kwargs["robust_step_size"] * ratios
        grown = self.loss_weight * (powers - powers.max()).exp()
        self.loss_weight = (self.task_num * grown / grown.sum()).to(losses.dtype)
    torch.mul(losses, self.loss_weight).sum().backward()
    found: NDArray[np.floating[Any]] = self.loss_weight.cpu().numpy()
    return found


def _needed(libmtl: ModuleType) -> bool:
    return "self.encoder." in method_source(libmtl.weighting, "ExcessMTL", "backward")


def _apply(libmtl: ModuleType) -> None:
    libmtl.weighting.ExcessMTL.backward = backward


PATCH = Patch(
    name="excess-mtl-encoder",
    reason="LibMTL's ExcessMTL fails where there is no `encoder` (MMoE, CGC, DSelect_k)",
    needed=_needed,
    apply=_apply,
)
