"""LibMTL's DSelect_k back-propagates a regulariser in each forward pass of training.

FAMO looks at the losses again after each step, in training mode and without gradients, where
there is nothing to back-propagate, and the pass fails.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.integrations.libmtl.features import method_source
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def _needed(libmtl: ModuleType) -> bool:
    source = method_source(libmtl.architecture, "DSelect_k", "_entropy_reg_loss")
    return "loss.backward(" in source and hasattr(libmtl.weighting, "FAMO")


def _apply(libmtl: ModuleType) -> None:
    regularise = libmtl.architecture.DSelect_k._entropy_reg_loss

    @functools.wraps(regularise)
    def _entropy_reg_loss(self: Any, inputs: Tensor) -> None:
        if torch.is_grad_enabled():
            regularise(self, inputs)

    libmtl.architecture.DSelect_k._entropy_reg_loss = _entropy_reg_loss


PATCH = Patch(
    name="dselect-k-look",
    reason="LibMTL's DSelect_k fails in a training pass without gradients, such as FAMO's",
    needed=_needed,
    apply=_apply,
)
