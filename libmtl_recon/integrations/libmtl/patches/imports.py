"""Patches of LibMTL's imports and configuration."""

from __future__ import annotations

import ast
import importlib.util
import sys
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from libmtl_recon.integrations.libmtl import optimizers
from libmtl_recon.integrations.libmtl.known_sources import BOTH
from libmtl_recon.integrations.libmtl.patches.patch import Defect, patch

_LOST = "torchvision.models.utils"


def _imports_what_is_lost(libmtl: ModuleType) -> bool:
    """Return whether LibMTL's ResNets import a removed module without an alternative."""
    if _LOST in sys.modules or importlib.util.find_spec(_LOST) is not None:
        return False
    spec = PathFinder.find_spec("resnet", [str(Path(home) / "model") for home in libmtl.__path__])
    loader = None if spec is None else spec.loader
    if not isinstance(loader, InspectLoader):
        return False
    source = loader.get_source("resnet")
    if source is None:  # providing a replacement does no harm
        return True
    # LibMTL's main branch has the import inside a `try`, with another after it.
    statements = ast.parse(source).body
    return any(isinstance(one, ast.ImportFrom) and one.module == _LOST for one in statements)


@patch("torchvision-import", needs=_imports_what_is_lost, before_import=True)
def torchvision_import(_: ModuleType) -> None:
    """LibMTL imports torchvision.models.utils, which torchvision has removed.

    Its ResNets import one function from there.
    """
    from torch.hub import load_state_dict_from_url

    module = ModuleType(_LOST, "Stands in for a module that torchvision has removed.")
    vars(module)["load_state_dict_from_url"] = load_state_dict_from_url
    sys.modules[_LOST] = module


@patch("optimizers-schedulers", needs=Defect("config.prepare_args", of=BOTH))
def optimizers_schedulers(libmtl: ModuleType) -> None:
    """LibMTL offers adagrad, rmsprop, cos and exp, but does not define their arguments.

    They end in an UnboundLocalError. ``prepare_args`` itself is replaced at registration, and
    checks whether this patch was applied.
    """
    optimizers.complete_help(libmtl.config.LibMTL_args)
