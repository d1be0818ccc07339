"""What a mend is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Patch:
    """One defect of LibMTL that is mended from outside.

    Attributes:
        name: Its name, for messages and switches.
        reason: What is broken without it.
        needed: Whether this LibMTL has the defect; asked with LibMTL's module.
        apply: Mends it, on the classes themselves, so that it holds for scripts that imported
            them before us.
        before_import: LibMTL cannot be imported without it; ``needed`` and ``apply`` are then
            given the module before it was executed.
    """

    name: str
    reason: str
    needed: Callable[[ModuleType], bool]
    apply: Callable[[ModuleType], None]
    before_import: bool = False
