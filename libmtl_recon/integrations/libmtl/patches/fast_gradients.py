"""The patch of how LibMTL computes gradients, and of weightings that iterate over pairs of them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.known_sources import BOTH, find, unpatched, versions_of
from libmtl_recon.integrations.libmtl.patches.patch import Defect, patch, stand_in
from libmtl_recon.integrations.libmtl.step import (
    cagrad,
    functions,
    gradvac,
    gramians,
    nash_mtl,
    pcgrad,
)

# What the main branch adds where its PCGrad and GradVac divide; the release adds nothing.
_GUARD = {"pypi": 0.0, "main": 1e-8}
_PLUMBING: dict[str, Callable[..., Any]] = {
    "_compute_grad_dim": functions.compute_grad_dim,
    "_compute_grad": functions.compute_grad,
    "_backward_new_grads": functions.backward_new_grads,
    "_reset_grad": functions.reset_grad,
}
_BY_GRAMIANS = ("PCGrad", "GradVac", "CAGrad", "UPGrad", "FairGrad", "Nash_MTL")


@patch(
    "fast-gradients",
    needs=Defect(
        "Trainer._compute_loss",
        *(f"weighting.AbsWeighting.{name}" for name in _PLUMBING),
        of=BOTH,
    ),
    known_only=tuple(f"weighting.{name}.backward" for name in _BY_GRAMIANS),
)
def fast_gradients(libmtl: ModuleType) -> None:
    """LibMTL's per-task gradients traverse all tasks' graphs and allocate memory in each step.

    They cost a multiple of the backward passes they need: LibMTL writes the losses into one vector
    in place, so that differentiating one traverses the decoders of all tasks (and with
    ``multi_input`` all encoder passes), and allocates memory for all gradients. With this patch
    each task's own scalar is differentiated, into memory that is reused; the result is the same up
    to rounding. PCGrad, GradVac and CAGrad, which iterate over the gradients once per pair of
    tasks, use the tasks' Gramian instead, as do UPGrad, FairGrad and Nash_MTL, whose own is squared
    in float32. How the Gramian is computed is chosen by ``--recon_gradients``.

    Its other parts are hooks: of ``Trainer._compute_loss``, and of a model's ``forward`` and
    ``backward``.
    """
    for name, function in _PLUMBING.items():
        stand_in(libmtl.weighting.AbsWeighting, name, function)
    for name in _BY_GRAMIANS:
        own = find(libmtl, f"weighting.{name}.backward")
        versions = versions_of(own, f"weighting.{name}.backward")
        if versions:
            _by_gramians(vars(libmtl.weighting)[name], own, min(versions))


def _by_gramians(owner: Any, own: Any, version: str) -> None:
    guard = _GUARD[version]
    if owner.__name__ == "GradVac" and version == "main":
        stand_in(owner, "backward", gradvac.make_main_backward(guard))
    elif owner.__name__ != "GradVac":
        function = {
            "PCGrad": pcgrad.make_backward(guard),
            "CAGrad": cagrad.backward,
            "UPGrad": gramians.upgrad,
            "FairGrad": gramians.fairgrad,
            "Nash_MTL": nash_mtl.backward,
        }[owner.__name__]
        stand_in(owner, "backward", function)
    elif unpatched(own) is own:  # otherwise `gradvac-targets` was applied, and is fast already
        stand_in(owner, "backward", gradvac.make_release_backward(always=False))
