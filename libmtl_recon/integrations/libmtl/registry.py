"""Registration: makes LibMTL know the names of this package."""

from __future__ import annotations

import threading
from importlib import import_module
from types import ModuleType

from libmtl_recon import logs
from libmtl_recon.integrations.libmtl import arguments, flags, hook_table, parser
from libmtl_recon.integrations.libmtl.data_parallel import endings, quiet
from libmtl_recon.integrations.libmtl.patches import patch_after_import
from libmtl_recon.integrations.libmtl.spawn import tell_spawned_processes

_MARK = "_libmtl_recon_registered"
_one_at_a_time = threading.Lock()


def register(libmtl: ModuleType) -> None:
    """Patch this LibMTL and add our flags, weightings and architectures to it, once.

    The same holds for processes that are spawned from now on.
    """
    with _one_at_a_time:
        if hasattr(libmtl, _MARK):
            return
        vars(libmtl)[_MARK] = True
        logs.show()
        quiet.be_quiet()
        endings.say_uncaught()
        patch_after_import(libmtl)
        _offer_classes(libmtl)
        flags.add_flags(libmtl)
        parser.remember_registered(libmtl)
        arguments.replace_prepare_args(libmtl)
        hook_table.install(libmtl)
        tell_spawned_processes()


def _offer_classes(libmtl: ModuleType) -> None:
    for module, methods in (
        (libmtl.weighting, flags.WEIGHTINGS),
        (libmtl.architecture, flags.ARCHITECTURES),
    ):
        for name, method in methods.items():
            vars(module)[name] = getattr(import_module(method.HOME), name)
        module.__all__ = [*module.__all__, *methods]
