"""LibMTL's CAGrad is written for three tasks; this one is for any number.

Source: "Conflict-Averse Gradient Descent for Multi-task Learning" (NeurIPS 2021), Algorithm 1.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.plugin.features import source_of
from libmtl_recon.plugin.mends.mend import Mend

# LibMTL's guard against a root of zero, kept so that three tasks give its numbers.
_TINY = 1e-8


def cagrad_weights(gramian: NDArray[np.float32], radius: float) -> NDArray[np.float64]:
    """The weights w on the simplex that minimise g_w·g₀ + radius · ‖g_w‖.

    Args:
        gramian: ``[T, T]`` of the task gradients.
        radius: c ‖g₀‖, how far the update may lie from the mean gradient g₀.

    Returns:
        ``[T]``, non-negative, of sum 1.
    """
    from scipy.optimize import minimize

    tasks = len(gramian)
    start = np.ones(tasks) / tasks

    def objective(w: NDArray[np.float64]) -> float:
        along = w @ gramian @ start
        return float(along + radius * np.sqrt(w @ gramian @ w + _TINY))

    found = minimize(
        objective,
        start,
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda w: 1 - sum(w)},
    )
    weights: NDArray[np.float64] = found.x
    return weights


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """CAGrad's update on the shared parameters; returns the weights ``[T]``.

    Raises:
        ValueError: ``rep_grad`` is on, or ``rescale`` is none of 0, 1, 2.
    """
    calpha, rescale = kwargs["calpha"], kwargs["rescale"]
    if self.rep_grad:
        raise ValueError("CAGrad works on the shared parameters: leave --rep_grad out.")
    if rescale not in (0, 1, 2):
        raise ValueError(f"--rescale must be 0, 1 or 2, but is {rescale}.")
    self._compute_grad_dim()
    gradients = self._compute_grad(losses, mode="backward")
    gramian = (gradients @ gradients.T).cpu()
    radius = float(calpha * (gramian.mean() + _TINY).sqrt() + _TINY)
    weights = cagrad_weights(gramian.numpy(), radius)
    worst = torch.as_tensor(weights, dtype=gradients.dtype, device=gradients.device) @ gradients
    update = gradients.mean(0) + radius / (worst.norm() + _TINY) * worst
    update = update / (1.0, 1 + calpha**2, 1 + calpha)[rescale]
    self._reset_grad(update)
    return weights


def _needed(libmtl: ModuleType) -> bool:
    return "reshape(1,3)" in source_of(libmtl.weighting.CAGrad.backward)


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.CAGrad.backward
    libmtl.weighting.CAGrad.backward = functools.wraps(original)(backward)


MEND = Mend(
    name="cagrad-tasks",
    reason="LibMTL's CAGrad works for three tasks only",
    needed=_needed,
    apply=_apply,
)
