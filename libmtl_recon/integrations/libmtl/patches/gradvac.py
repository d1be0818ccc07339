"""The release's GradVac moves a pair's target only where it has just turned a gradient.

So a target never rises above zero, and GradVac never asks tasks to agree more than not at all,
which is what it is for. The paper moves the targets at every step.

Source: "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
Multilingual Models" (ICLR 2021), Algorithm 1 with the whole model as one component.
"""

from __future__ import annotations

import functools
from types import ModuleType

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch
from libmtl_recon.integrations.libmtl.step import gradvac


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
    mended = gradvac.make_release_backward(always=True)
    libmtl.weighting.GradVac.backward = functools.wraps(original)(mended)


PATCH = Patch(
    name="gradvac-targets",
    reason="LibMTL's GradVac never asks for a cosine above 0: it moves targets too rarely",
    needed=_needed,
    apply=_apply,
)
