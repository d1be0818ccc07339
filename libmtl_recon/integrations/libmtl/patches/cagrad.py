"""LibMTL's CAGrad is written for three tasks only; this one is for any number."""

from __future__ import annotations

import functools
from types import ModuleType

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch
from libmtl_recon.integrations.libmtl.step import cagrad


def _needed(libmtl: ModuleType) -> bool:
    return "reshape(1,3)" in source_of(libmtl.weighting.CAGrad.backward)


def _apply(libmtl: ModuleType) -> None:
    original = libmtl.weighting.CAGrad.backward
    libmtl.weighting.CAGrad.backward = functools.wraps(original)(cagrad.backward)


PATCH = Patch(
    name="cagrad-tasks",
    reason="LibMTL's CAGrad works for three tasks only",
    needed=_needed,
    apply=_apply,
)
