"""What the LibMTL that was found can do: told by what it has, since both versions say 1.1.5."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Features:
    """The differences between LibMTL's versions that matter to us.

    Attributes:
        by_name: Its Trainer takes the names of the weighting and the architecture (GitHub main);
            otherwise it takes the classes (the PyPI release).
        saves_models: Its Trainer takes ``save_path`` and ``load_path``.
    """

    by_name: bool
    saves_models: bool

    @property
    def label(self) -> str:
        """``main`` or ``pypi``: which of the two LibMTLs this is."""
        return "main" if self.saves_models else "pypi"


def detect(libmtl: ModuleType) -> Features:
    """Look at an imported LibMTL."""
    parameters = inspect.signature(libmtl.Trainer.__init__).parameters
    return Features(
        # The module in which its Trainer looks names up, under the name that it has there.
        by_name=hasattr(sys.modules[libmtl.Trainer.__module__], "weighting_method"),
        saves_models="save_path" in parameters,
    )


def named_class(module: ModuleType, given: Any) -> Any:
    """The class of a module that a Trainer is given: itself, or (main branch) its name."""
    return vars(module).get(given) if isinstance(given, str) else given
