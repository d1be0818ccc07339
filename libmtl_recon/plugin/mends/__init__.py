"""What is mended in LibMTL from outside, so that it trains on today's PyTorch.

Each mend says what is broken and how it is recognised; nothing is mended that works.
"""

from __future__ import annotations

from types import ModuleType

from libmtl_recon.plugin.mends import cagrad, device, gradients, loaders, torchvision_import
from libmtl_recon.plugin.mends.mend import Mend

MENDS: tuple[Mend, ...] = (
    torchvision_import.MEND,
    device.MEND,
    loaders.MEND,
    gradients.MEND,
    cagrad.MEND,
)

__all__ = ["MENDS", "Mend", "mend_after_import", "mend_before_import"]


def mend_before_import(libmtl: ModuleType) -> tuple[Mend, ...]:
    """Apply the mends without which LibMTL cannot be imported; returns those applied."""
    return _apply(libmtl, before_import=True)


def mend_after_import(libmtl: ModuleType) -> tuple[Mend, ...]:
    """Apply the other mends to an imported LibMTL; returns those applied."""
    return _apply(libmtl, before_import=False)


def _apply(libmtl: ModuleType, *, before_import: bool) -> tuple[Mend, ...]:
    due = [m for m in MENDS if m.before_import is before_import and m.needed(libmtl)]
    for mend in due:
        mend.apply(libmtl)
    return tuple(due)
