"""What is mended in LibMTL from outside, so that it trains on today's PyTorch.

Each mend says what is broken and how it is recognised; nothing is mended that works.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Literal

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.patches import (
    aligned_mtl,
    attention,
    cagrad,
    checkpoint,
    device,
    dselect_k,
    dselect_k_look,
    excess_mtl,
    fast_gradients,
    gls,
    gradients,
    gradnorm,
    gradnorm_rates,
    gradvac,
    gradvac_layers,
    imtl,
    loaders,
    mgda,
    mtan,
    nash_mtl,
    optimizers,
    own_scheduler,
    representations,
    return_weight,
    rlw,
    sdmgrad,
    torchvision_import,
)
from libmtl_recon.integrations.libmtl.patches.patch import Patch
from libmtl_recon.texts import did_you_mean

PATCHES: tuple[Patch, ...] = (
    # To load and to run at all.
    torchvision_import.PATCH,
    device.PATCH,
    loaders.PATCH,
    optimizers.PATCH,
    own_scheduler.PATCH,
    checkpoint.PATCH,
    return_weight.PATCH,
    attention.PATCH,
    # The architectures.
    gradients.PATCH,
    mtan.PATCH,
    representations.PATCH,
    dselect_k.PATCH,
    dselect_k_look.PATCH,
    # The weightings.
    aligned_mtl.PATCH,
    cagrad.PATCH,
    excess_mtl.PATCH,
    gls.PATCH,
    gradnorm_rates.PATCH,
    gradnorm.PATCH,
    gradvac.PATCH,
    gradvac_layers.PATCH,
    imtl.PATCH,
    mgda.PATCH,
    nash_mtl.PATCH,
    rlw.PATCH,
    sdmgrad.PATCH,
    # What all of them take their gradients by.
    fast_gradients.PATCH,
)

__all__ = [
    "PATCHES",
    "Patch",
    "PatchStatus",
    "patch_after_import",
    "patch_before_import",
    "patch_status",
]

VARIABLE = "LIBMTL_RECON_MENDS"
_VERDICTS = "_libmtl_recon_verdicts"

PatchStatus = Literal["applied", "not needed", "switched off"]


def patch_before_import(libmtl: ModuleType) -> None:
    """Apply the mends without which LibMTL cannot be imported."""
    _apply(libmtl, before_import=True)


def patch_after_import(libmtl: ModuleType) -> None:
    """Apply the other mends to an imported LibMTL."""
    _apply(libmtl, before_import=False)


def patch_status(libmtl: ModuleType) -> dict[str, PatchStatus]:
    """What became of each mend, by its name; those without were not looked at.

    A LibMTL that was imported before us needed no mend for its import.
    """
    return dict(vars(libmtl).get(_VERDICTS, {}))


def wanted_patches() -> frozenset[str]:
    """The names of the mends that may be applied: all, or those in ``LIBMTL_RECON_MENDS``.

    Raises:
        UsageError: The variable names a mend that there is not.
    """
    names = [mend.name for mend in PATCHES]
    given = os.environ.get(VARIABLE)
    if given is None:
        return frozenset(names)
    wanted = [name.strip() for name in given.split(",") if name.strip() not in ("", "none")]
    for name in wanted:
        if name not in names:
            raise UsageError(
                VARIABLE,
                "must be none, or names of mends with commas between them",
                name,
                f"{did_you_mean(name, names)}There are {', '.join(names)}; unset, all are "
                "applied that are needed.",
            )
    return frozenset(wanted)


def _apply(libmtl: ModuleType, *, before_import: bool) -> None:
    wanted = wanted_patches()
    found: dict[str, PatchStatus] = vars(libmtl).setdefault(_VERDICTS, {})
    for mend in PATCHES:
        if mend.before_import is not before_import:
            continue
        if not mend.needed(libmtl):
            found[mend.name] = "not needed"
        elif mend.name not in wanted:
            found[mend.name] = "switched off"
        else:
            mend.apply(libmtl)
            found[mend.name] = "applied"
