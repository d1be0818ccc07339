"""``torchvision.models.utils`` is gone; LibMTL's ResNets import one function from there."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from libmtl_recon.integrations.libmtl.patches.patch import Patch

_LOST = "torchvision.models.utils"


def _needed(libmtl: ModuleType) -> bool:
    importers = [Path(folder) / "model" / "resnet.py" for folder in libmtl.__path__]
    return (
        any(path.is_file() and _imports_it_unguarded(path) for path in importers)
        and _LOST not in sys.modules
        and importlib.util.find_spec(_LOST) is None
    )


def _imports_it_unguarded(path: Path) -> bool:
    # LibMTL's main branch has the import inside a `try`, with another after it.
    statements = ast.parse(path.read_bytes()).body
    return any(isinstance(one, ast.ImportFrom) and one.module == _LOST for one in statements)


def _apply(_: ModuleType) -> None:
    from torch.hub import load_state_dict_from_url

    stand_in = ModuleType(_LOST, "Stands in for a module that torchvision has removed.")
    vars(stand_in)["load_state_dict_from_url"] = load_state_dict_from_url
    sys.modules[_LOST] = stand_in


PATCH = Patch(
    name="torchvision-import",
    reason="LibMTL imports torchvision.models.utils, which torchvision has removed",
    needed=_needed,
    apply=_apply,
    before_import=True,
)
