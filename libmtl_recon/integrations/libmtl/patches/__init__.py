"""Patches of LibMTL, applied from outside, so that it trains with current PyTorch.

Each patch states what is wrong and how that is recognised; working code is not patched, nor is code
of an unknown version of LibMTL.
"""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import Literal

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.patches import (
    architectures,
    fast_gradients,
    imports,
    trainer,
    weightings,
    weightings_main,
)
from libmtl_recon.integrations.libmtl.patches.patch import Patch, Unknown
from libmtl_recon.texts import did_you_mean

# In the order in which they are applied and listed.
PATCHES: tuple[Patch, ...] = (
    # Loading and running at all.
    imports.torchvision_import,
    trainer.device,
    trainer.iterator_next,
    imports.optimizers_schedulers,
    trainer.own_scheduler,
    trainer.strict_checkpoint,
    trainer.return_weight,
    architectures.attention_in_evaluation,
    # Architectures.
    architectures.in_place_zero_grad,
    architectures.mtan_zero_grad,
    architectures.task_representations,
    architectures.dselect_k_codes,
    architectures.dselect_k_look,
    # Weightings.
    weightings_main.aligned_mtl_eigen,
    weightings.cagrad_tasks,
    weightings_main.excess_mtl_encoder,
    weightings.gls_logarithms,
    weightings.gradnorm_zero_loss,
    weightings.gradnorm_first_epoch,
    weightings.gradvac_targets,
    weightings_main.gradvac_layers,
    weightings.imtl_inverse,
    weightings.mgda_solver,
    weightings_main.nash_mtl_solver,
    weightings.rlw_constrained_bernoulli,
    weightings_main.sdmgrad_simplex,
    # The computation of their gradients.
    fast_gradients.fast_gradients,
)

__all__ = [
    "PATCHES",
    "Patch",
    "PatchStatus",
    "patch_after_import",
    "patch_before_import",
    "patch_status",
    "unknown_functions",
]

VARIABLE = "LIBMTL_RECON_PATCHES"
OLD_VARIABLE = "LIBMTL_RECON_MENDS"
# The attribute of LibMTL's module that stores the patches' status.
_STATUS, _UNKNOWN = "_libmtl_recon_patches", "_libmtl_recon_unknown"
_SHOWN = 8  # names in a warning; an edited LibMTL has few, one without sources many

PatchStatus = Literal["applied", "not needed", "switched off", "not checked"]


def patch_before_import(libmtl: ModuleType) -> None:
    """Apply the patches without which LibMTL cannot be imported."""
    _apply(libmtl, before_import=True)


def patch_after_import(libmtl: ModuleType) -> None:
    """Apply the other patches to an imported LibMTL, and warn about unknown functions."""
    if OLD_VARIABLE in os.environ:
        warnings.warn(
            f"{OLD_VARIABLE} is called {VARIABLE} now; the old name is read for one more release.",
            DeprecationWarning,
            stacklevel=2,
        )
    _apply(libmtl, before_import=False)
    unknown = unknown_functions(libmtl)
    if unknown:
        _warn(unknown, [name for name in unknown if patch_status(libmtl)[name] == "not checked"])


def patch_status(libmtl: ModuleType) -> dict[str, PatchStatus]:
    """Return the status of each patch, by name; patches that are not listed were not checked.

    A patch of functions of an unknown version of LibMTL is ``not checked``, and not applied.
    A LibMTL that was imported before this package needed no patch for its import.
    """
    return dict(vars(libmtl).get(_STATUS, {}))


def unknown_functions(libmtl: ModuleType) -> dict[str, tuple[str, ...]]:
    """Return LibMTL's functions of an unknown version that were left unchanged, by patch name."""
    return dict(vars(libmtl).get(_UNKNOWN, {}))


def wanted_patches() -> frozenset[str]:
    """Return the names of the patches to apply: all, or those in ``LIBMTL_RECON_PATCHES``.

    Raises:
        UsageError: The variable names an unknown patch, or the one with its old name has another
            value.
    """
    names = [one.name for one in PATCHES]
    given = _given()
    if given is None:
        return frozenset(names)
    wanted = _listed(given)
    for name in sorted(wanted.difference(names)):
        raise UsageError(
            VARIABLE if VARIABLE in os.environ else OLD_VARIABLE,
            "must be none, or names of patches separated by commas",
            name,
            f"{did_you_mean(name, names)}There are {', '.join(names)}; if it is unset, all that "
            "are needed are applied.",
        )
    return wanted


def _given() -> str | None:
    """Return the variable's value that selects patches, if one is set."""
    given, old = os.environ.get(VARIABLE), os.environ.get(OLD_VARIABLE)
    if given is None or old is None:
        return old if given is None else given
    if _listed(given) != _listed(old):
        raise UsageError(
            OLD_VARIABLE,
            f"must have the same value as {VARIABLE}, whose old name it is",
            old,
            f"Unset {OLD_VARIABLE}.",
        )
    return given


def _listed(given: str) -> frozenset[str]:
    return frozenset(name.strip() for name in given.split(",")) - {"", "none"}


def _apply(libmtl: ModuleType, *, before_import: bool) -> None:
    wanted, named = wanted_patches(), _given() is not None
    status: dict[str, PatchStatus] = vars(libmtl).setdefault(_STATUS, {})
    unknown: dict[str, tuple[str, ...]] = vars(libmtl).setdefault(_UNKNOWN, {})
    for one in PATCHES:
        if one.before_import is not before_import:
            continue
        need = one.needs(libmtl)
        if need is False:
            status[one.name] = "not needed"
        elif one.name not in wanted:
            status[one.name] = "switched off"
        elif isinstance(need, Unknown) and not (named and need.can_be_replaced_in(libmtl)):
            status[one.name], unknown[one.name] = "not checked", need.functions
        else:
            left = one.left_alone_in(libmtl)
            if left:
                unknown[one.name] = left
            one.apply(libmtl)
            status[one.name] = "applied"


def _warn(unknown: dict[str, tuple[str, ...]], not_checked: list[str]) -> None:
    functions = dict.fromkeys(name for names in unknown.values() for name in names)
    which = "is left as it is: its" if len(functions) == 1 else "are left as they are: their"
    text = (
        f"LibMTL's {_shortened(list(functions))} {which} source is neither "
        "that of the PyPI release 1.1.5 nor that of GitHub main at 4336804, or cannot be read."
    )
    if not_checked:
        text += (
            f" Whether these patches are needed was not checked: {_shortened(not_checked)}. "
            f"`libmtl-recon doctor` shows what is wrong without them. Set {VARIABLE} to the names "
            "of all patches that you want, which also ends this warning."
        )
    warnings.warn(text, stacklevel=3)


def _shortened(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
