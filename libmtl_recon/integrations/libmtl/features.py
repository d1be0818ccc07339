"""Features of the installed LibMTL, detected by its contents: both versions say 1.1.5."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Features:
    """The differences between LibMTL's versions that matter to this package.

    Attributes:
        by_name: Its Trainer takes the names of the weighting and the architecture (GitHub main);
            otherwise it takes the classes (the PyPI release).
        saves_models: Its Trainer takes ``save_path`` and ``load_path``.
    """

    by_name: bool
    saves_models: bool

    @property
    def label(self) -> str:
        """Return ``main`` or ``pypi``: which of the two LibMTLs this is."""
        return "main" if self.saves_models else "pypi"


def installed() -> ModuleType:
    """Import and return the installed LibMTL."""
    import LibMTL

    found: ModuleType = LibMTL
    return found


def detect(libmtl: ModuleType) -> Features:
    """Detect the features of an imported LibMTL."""
    parameters = inspect.signature(libmtl.Trainer.__init__).parameters
    return Features(
        # The module in which its Trainer looks names up, under its name there.
        by_name=hasattr(sys.modules[libmtl.Trainer.__module__], "weighting_method"),
        saves_models="save_path" in parameters,
    )


def named_class(module: ModuleType, given: Any) -> Any:
    """Return the class that a Trainer is given: as a class, or (main branch) by its name."""
    return vars(module).get(given) if isinstance(given, str) else given
