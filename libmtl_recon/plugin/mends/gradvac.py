"""The release's GradVac moves a pair's target only where it has just turned a gradient.

So a target never rises above zero, and GradVac never asks tasks to agree more than not at all,
which is what it is for. The paper moves the targets at every step. Here the turning is done in
terms of the tasks' Gramian, T numbers a task, so that the gradients are read twice in all.

Source: "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
Multilingual Models" (ICLR 2021), Algorithm 1 with the whole model as one component.
"""

from __future__ import annotations

import functools
import random
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradient import gramian
from libmtl_recon.plugin.features import source_of
from libmtl_recon.plugin.mends.mend import Mend

# A target this close to 1 would need a turn of infinite length.
_TINY = 1e-8


def vaccinate(
    products: NDArray[np.float64], targets: NDArray[np.float64], beta: float
) -> NDArray[np.float64]:
    """Turn each task's gradient until its cosine with the others' reaches their targets.

    Args:
        products: ``[T, T]``, the gradients' Gramian. Pairs with a gradient of zero are left alone.
        targets: ``[T, T]``; moved on by this step's cosines, in place.
        beta: How far, from 0 to 1.

    Returns:
        ``[T, T]``: row i says how much of each gradient is in task i's turned one. The tasks are
        met in a random order, drawn from :mod:`random`.
    """
    tasks = len(products)
    turned = np.eye(tasks)
    lengths = np.sqrt(products.diagonal())
    for own, row in enumerate(turned):
        others = [other for other in range(tasks) if other != own]
        random.shuffle(others)
        for other in others:
            length = float(np.sqrt(max(float(row @ products @ row), 0.0)))
            if length == 0 or lengths[other] == 0:
                continue
            cosine = float(np.clip(row @ products[other] / length / lengths[other], -1, 1))
            target = targets[own, other]
            if cosine < target:
                sine, wanted = np.sqrt(1 - cosine**2), max(np.sqrt(1 - target**2), _TINY)
                row[other] += length * (target * sine - cosine * wanted) / (lengths[other] * wanted)
            targets[own, other] = (1 - beta) * target + beta * cosine
    return turned


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """GradVac's update on the shared parameters; returns how much of each gradient is in it.

    Raises:
        UsageError: ``rep_grad`` is on.
    """
    if self.rep_grad:
        raise UsageError(
            "--rep_grad",
            "cannot be combined with --weighting GradVac",
            True,
            "Leave --rep_grad out.",
        )
    if not hasattr(self, "rho_T"):  # LibMTL's own name for the targets
        self.rho_T = losses.new_zeros(self.task_num, self.task_num, requires_grad=False)
    self._compute_grad_dim()
    gradients = self._compute_grad(losses, mode="backward")
    targets = self.rho_T.cpu().double().numpy()
    turned = vaccinate(gramian(gradients).cpu().numpy(), targets, kwargs["beta"])
    self.rho_T = torch.as_tensor(targets, dtype=self.rho_T.dtype, device=self.rho_T.device)
    weights: NDArray[np.float64] = turned.sum(axis=0)
    mixed = torch.as_tensor(weights, dtype=gradients.dtype, device=gradients.device) @ gradients
    self._reset_grad(mixed)
    return weights


def _needed(libmtl: ModuleType) -> bool:
    lines = source_of(libmtl.weighting.GradVac.backward).splitlines()
    # How deep the condition and the running mean are indented.
    depth = {
        name: len(line) - len(line.lstrip())
        for line in lines
        for name in ("if rho_ij <", "self.rho_T[tn_i, tn_j] =")
        if line.strip().startswith(name)
    }
    return len(depth) == 2 and len(set(depth.values())) == 2


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.GradVac.backward
    libmtl.weighting.GradVac.backward = functools.wraps(original)(backward)


MEND = Mend(
    name="gradvac-targets",
    reason="LibMTL's GradVac never asks for a cosine above 0: it moves targets too rarely",
    needed=_needed,
    apply=_apply,
)
