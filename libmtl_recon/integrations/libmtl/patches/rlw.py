"""LibMTL's RLW draws from a module that it does not import.

``--dist constrained_Bernoulli`` needs ``random``; a bare ``except`` turns the NameError into a
"No support method".
"""

from __future__ import annotations

import random
import sys
from types import ModuleType

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def _needed(libmtl: ModuleType) -> bool:
    weighting = libmtl.weighting.RLW
    return "random.sample" in source_of(weighting.backward) and "random" not in _globals(weighting)


def _apply(libmtl: ModuleType) -> None:
    _globals(libmtl.weighting.RLW)["random"] = random


def _globals(weighting: type) -> dict[str, object]:
    return vars(sys.modules[weighting.__module__])


PATCH = Patch(
    name="rlw-constrained-bernoulli",
    reason="LibMTL's RLW knows no --dist constrained_Bernoulli, for want of an import",
    needed=_needed,
    apply=_apply,
)
