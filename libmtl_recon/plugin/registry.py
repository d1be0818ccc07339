"""Registration: after it, LibMTL knows our names."""

from __future__ import annotations

import threading
from importlib import import_module
from types import ModuleType

from libmtl_recon.plugin import (
    arguments,
    checkpoints,
    compiled,
    decoders,
    flags,
    labels,
    leading,
    observing,
    parser,
    precision,
    recon,
    refusals,
)
from libmtl_recon.plugin.mends import mend_after_import
from libmtl_recon.plugin.step import adding_up

_MARK = "_libmtl_recon_registered"
_one_at_a_time = threading.Lock()


def register(libmtl: ModuleType) -> None:
    """Mend this LibMTL and add our flags, weightings and architectures to it, once."""
    with _one_at_a_time:
        if hasattr(libmtl, _MARK):
            return
        vars(libmtl)[_MARK] = True
        mend_after_import(libmtl)
        _offer_classes(libmtl)
        flags.add_flags(libmtl)
        parser.remember_registered(libmtl)
        arguments.swap_prepare_args(libmtl)
        checkpoints.wrap_architectures(libmtl)
        recon.wrap_trainer(libmtl)
        labels.wrap_trainer(libmtl)
        adding_up.wrap_trainer(libmtl)
        compiled.wrap_trainer(libmtl)
        precision.wrap_trainer(libmtl)
        refusals.guard_trainer(libmtl)
        leading.guard_training(libmtl)
        decoders.guard_trainer(libmtl)
        observing.wrap_trainer(libmtl)


def _offer_classes(libmtl: ModuleType) -> None:
    for module, methods in (
        (libmtl.weighting, flags.WEIGHTINGS),
        (libmtl.architecture, flags.ARCHITECTURES),
    ):
        for name, method in methods.items():
            vars(module)[name] = getattr(import_module(method.HOME), name)
        module.__all__ = [*module.__all__, *methods]
