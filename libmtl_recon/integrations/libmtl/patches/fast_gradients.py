"""LibMTL's per-task gradients cost a multiple of the backward passes they need.

It writes the losses into one vector in place, so that differentiating one walks the decoders of
all tasks (and with ``multi_input`` all encoder passes), and takes fresh memory for all gradients
in every step. With this mend each task's own scalar is differentiated, into memory that is used
again; what comes out is the same up to rounding. PCGrad, GradVac and CAGrad, which go over the
gradients once for each pair of tasks, work on the tasks' Gramian instead, as do UPGrad and
FairGrad, whose own is squared in float32; MGDA, IMTL and GradNorm,
which make several matrices as large as that of all gradients, on vectors of T numbers with the same
inner products.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch
from libmtl_recon.integrations.libmtl.step import (
    cagrad,
    functions,
    gradvac,
    gramians,
    image,
    pcgrad,
)


def _apply(libmtl: ModuleType) -> None:
    trainer, weighting = libmtl.Trainer, libmtl.weighting.AbsWeighting
    _replace(trainer, "_compute_loss", functions.split_compute_loss(trainer._compute_loss))
    _replace(weighting, "_compute_grad_dim", functions.compute_grad_dim)
    _replace(weighting, "_compute_grad", functions.compute_grad)
    _replace(weighting, "_get_grads", image.show_image(weighting._get_grads))
    _replace(weighting, "_backward_new_grads", functions.backward_new_grads)
    _replace(weighting, "_reset_grad", functions.reset_grad)
    _replace_weightings(libmtl.weighting)
    prepare = trainer._prepare_model

    @functools.wraps(prepare)
    def _prepare_model(self: Any, *args: Any, **kwargs: Any) -> None:
        prepare(self, *args, **kwargs)
        # LibMTL makes a class for each model, on which nothing else depends.
        model_class = type(self.model)
        model_class.backward = functions.split_backward(model_class)

    trainer._prepare_model = _prepare_model


def _replace_weightings(weighting: ModuleType) -> None:
    """Replace those that have a form in the tasks' Gramian, as this LibMTL has them."""
    # LibMTL's own solver of MGDA mixes the gradients with vectors of its own.
    mended = hasattr(weighting.MGDA._find_min_norm_element, "__wrapped__")
    for owner, own_dtype in (
        (weighting.MGDA, not mended),
        (weighting.IMTL, False),
        (weighting.GradNorm, False),
    ):
        shown = image.by_inner_products(owner.backward, own_dtype=own_dtype)
        _replace(owner, "backward", shown)
    _replace(weighting.PCGrad, "backward", pcgrad.make_backward(_guard_of(weighting.PCGrad)))
    _replace(weighting.CAGrad, "backward", cagrad.backward)
    for name, function in (("UPGrad", gramians.upgrad), ("FairGrad", gramians.fairgrad)):
        if hasattr(weighting, name):
            _replace(vars(weighting)[name], "backward", function)
    own = weighting.GradVac.backward
    if "GradVac_group_type" in source_of(own):
        guard = _guard_of(weighting.GradVac)
        _replace(weighting.GradVac, "backward", gradvac.make_main_backward(guard))
    elif not hasattr(own, "__wrapped__"):  # else it was mended, and is fast already
        _replace(weighting.GradVac, "backward", gradvac.make_release_backward(always=False))


def _guard_of(weighting: Any) -> float:
    """What LibMTL adds where this weighting divides: its main branch does, its release not."""
    return 1e-8 if "1e-8" in source_of(weighting.backward) else 0.0


def _replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    # LibMTL's own stays reachable as `__wrapped__`, to be compared with.
    setattr(owner, name, functools.wraps(getattr(owner, name))(_plain(function)))


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return replaced


PATCH = Patch(
    name="fast-gradients",
    reason="LibMTL's per-task gradients walk all tasks' graphs and take fresh memory each step",
    needed=lambda _: True,
    apply=_apply,
)
