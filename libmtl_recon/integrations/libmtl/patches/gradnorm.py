"""LibMTL's GradNorm trains no encoder in its first epoch if ``rep_grad`` is on.

Until it has an epoch's losses to compare with, it calls ``backward`` on the sum of the losses,
whose graph ends at the representations.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def _needed(libmtl: ModuleType) -> bool:
    first_epoch = source_of(libmtl.weighting.GradNorm.backward).rpartition("else:")[2]
    return "loss.backward()" in first_epoch and "rep_grad" not in first_epoch


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.GradNorm.backward

    @functools.wraps(original)
    def backward(self: Any, losses: Tensor, **kwargs: Any) -> Any:
        if self.epoch >= 1 or not self.rep_grad:
            return original(self, losses, **kwargs)
        per_grads = self._compute_grad(losses, mode="backward", rep_grad=True)
        self._backward_new_grads(torch.ones_like(losses), per_grads=per_grads)
        return np.ones(self.task_num)

    libmtl.weighting.GradNorm.backward = backward


PATCH = Patch(
    name="gradnorm-first-epoch",
    reason="with --rep_grad, LibMTL's GradNorm trains the decoders alone in the first epoch",
    needed=_needed,
    apply=_apply,
)
