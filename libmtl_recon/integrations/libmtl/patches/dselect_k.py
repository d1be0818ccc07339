"""LibMTL's DSelect_k makes its experts' codes by turning the texts "0" and "1" into booleans.

NumPy 2 takes every text that is not empty for true, so that all experts have one code, and all
get the same weight.
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


def binary_codes(experts: int, digits: int) -> Tensor:
    """The binary code of each expert's index: ``[1, experts, digits]``, bool, highest digit first.

    Source: "DSelect-k: Differentiable Selection in the Mixture of Experts" (NeurIPS 2021).
    """
    places = torch.arange(digits - 1, -1, -1)
    return ((torch.arange(experts)[:, None] >> places) & 1).bool()[None]


def _needed(libmtl: ModuleType) -> bool:
    text_is_true = bool(np.array(["0"]).astype(bool)[0])
    return text_is_true and "binary_repr" in source_of(libmtl.architecture.DSelect_k.__init__)


def _apply(libmtl: ModuleType) -> None:
    build = libmtl.architecture.DSelect_k.__init__

    @functools.wraps(build)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # is set as __init__
        build(self, *args, **kwargs)
        codes = self._binary_codes
        self._binary_codes = binary_codes(self.num_experts, codes.shape[-1]).to(codes.device)

    libmtl.architecture.DSelect_k.__init__ = __init__


PATCH = Patch(
    name="dselect-k-codes",
    reason="LibMTL's DSelect_k gives all experts one code under NumPy 2, so that it selects none",
    needed=_needed,
    apply=_apply,
)
