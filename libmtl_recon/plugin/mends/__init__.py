"""What is mended in LibMTL from outside, so that it trains on today's PyTorch.

Each mend says what is broken and how it is recognised; nothing is mended that works.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Literal

from libmtl_recon.errors import UsageError
from libmtl_recon.plugin.mends import (
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
from libmtl_recon.plugin.mends.mend import Mend
from libmtl_recon.texts import did_you_mean

MENDS: tuple[Mend, ...] = (
    # To load and to run at all.
    torchvision_import.MEND,
    device.MEND,
    loaders.MEND,
    optimizers.MEND,
    own_scheduler.MEND,
    checkpoint.MEND,
    return_weight.MEND,
    attention.MEND,
    # The architectures.
    gradients.MEND,
    mtan.MEND,
    representations.MEND,
    dselect_k.MEND,
    dselect_k_look.MEND,
    # The weightings.
    aligned_mtl.MEND,
    cagrad.MEND,
    excess_mtl.MEND,
    gls.MEND,
    gradnorm_rates.MEND,
    gradnorm.MEND,
    gradvac.MEND,
    gradvac_layers.MEND,
    imtl.MEND,
    mgda.MEND,
    nash_mtl.MEND,
    rlw.MEND,
    sdmgrad.MEND,
    # What all of them take their gradients by.
    fast_gradients.MEND,
)

__all__ = ["MENDS", "Mend", "Verdict", "mend_after_import", "mend_before_import", "verdicts"]

VARIABLE = "LIBMTL_RECON_MENDS"
_VERDICTS = "_libmtl_recon_verdicts"

Verdict = Literal["applied", "not needed", "switched off"]


def mend_before_import(libmtl: ModuleType) -> None:
    """Apply the mends without which LibMTL cannot be imported."""
    _apply(libmtl, before_import=True)


def mend_after_import(libmtl: ModuleType) -> None:
    """Apply the other mends to an imported LibMTL."""
    _apply(libmtl, before_import=False)


def verdicts(libmtl: ModuleType) -> dict[str, Verdict]:
    """What became of each mend, by its name; those without were not looked at.

    A LibMTL that was imported before us needed no mend for its import.
    """
    return dict(vars(libmtl).get(_VERDICTS, {}))


def wanted_mends() -> frozenset[str]:
    """The names of the mends that may be applied: all, or those in ``LIBMTL_RECON_MENDS``.

    Raises:
        UsageError: The variable names a mend that there is not.
    """
    names = [mend.name for mend in MENDS]
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
    wanted = wanted_mends()
    found: dict[str, Verdict] = vars(libmtl).setdefault(_VERDICTS, {})
    for mend in MENDS:
        if mend.before_import is not before_import:
            continue
        if not mend.needed(libmtl):
            found[mend.name] = "not needed"
        elif mend.name not in wanted:
            found[mend.name] = "switched off"
        else:
            mend.apply(libmtl)
            found[mend.name] = "applied"
