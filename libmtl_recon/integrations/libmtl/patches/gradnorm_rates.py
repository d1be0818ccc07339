"""LibMTL's GradNorm makes NaN of all parameters where a loss is zero in the first epoch.

It divides each loss by that of the first epoch, and these rates by their mean: by zero, where a
loss is zero there (a hinge that is met), or where all are now. Such a task's loss is taken to be
what it was, and where all losses are zero no rate differs from another.

Source: "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks"
(ICML 2018), Section 3.1.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def inverse_rates(losses: Tensor, first: Tensor, alpha: float) -> Tensor:
    """The relative inverse training rates to the power of α.

    Args:
        losses: ``[T]``.
        first: ``[T]``, those of the first epoch.
        alpha: GradNorm's exponent.

    Returns:
        ``[T]``, in the losses' dtype.
    """
    ratios = torch.where(first == 0, 1.0, losses / first)
    mean = ratios.mean()
    if mean == 0:
        return torch.ones_like(ratios)
    rates: Tensor = (ratios / mean) ** alpha
    return rates


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[Any]:
    """GradNorm's update from the second epoch on; returns the weights ``[T]``."""
    scale = self.task_num * torch.softmax(self.loss_scale, dim=-1)
    per_grads, grads = None, self._get_grads(losses, mode="backward")
    if self.rep_grad:
        per_grads, grads = grads
    lengths = torch.linalg.vector_norm(grads, dim=-1, dtype=torch.float64)
    weighted = scale.double() * lengths
    first = torch.as_tensor(self.train_loss_buffer[:, 0]).to(weighted)
    rates = inverse_rates(losses.detach().double(), first, kwargs["alpha"])
    (weighted - (weighted.mean() * rates).detach()).abs().sum().backward()
    weights = scale.detach().clone()
    self._backward_new_grads(weights, per_grads=per_grads, grads=grads)
    found: NDArray[Any] = weights.cpu().numpy()
    return found


def _needed(libmtl: ModuleType) -> bool:
    return "/self.train_loss_buffer[" in source_of(libmtl.weighting.GradNorm.backward)


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.GradNorm.backward

    @functools.wraps(original)
    def mended(self: Any, losses: Tensor, **kwargs: Any) -> Any:
        own = backward if self.epoch >= 1 else original
        return own(self, losses, **kwargs)

    libmtl.weighting.GradNorm.backward = mended


PATCH = Patch(
    name="gradnorm-zero-loss",
    reason="LibMTL's GradNorm makes NaN where a loss is zero in the first epoch",
    needed=_needed,
    apply=_apply,
)
