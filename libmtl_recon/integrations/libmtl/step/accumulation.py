"""Gradients add up over the ``backward`` calls before an optimiser's step, for every weighting.

A weighting of LibMTL writes over the shared parameters' gradients, or scales or clips them, as if
there were none before its own: ``backward`` of several micro-batches would leave that of the last.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

from libmtl_recon.integrations.libmtl.step.step import Step, step_of

# They differentiate a weighted sum of losses, or of representations, and torch adds up.
_BY_THEMSELVES = frozenset(("DWA", "EW", "FAMO", "GLS", "RLW", "RotoGrad", "STCH", "UW"))
# It divides its decoders' gradients.
_DIVIDES = "MoDo"
_KNOWN = ("LibMTL.", "libmtl_recon.")


def wrap_trainer(libmtl: ModuleType) -> None:
    """Make LibMTL's Trainer build models whose ``backward`` adds to ``.grad``."""
    trainer_class = libmtl.Trainer
    prepare = trainer_class._prepare_model

    @functools.wraps(prepare)
    def _prepare_model(self: Any, *args: Any, **kwargs: Any) -> None:
        prepare(self, *args, **kwargs)
        # LibMTL makes a class for each model, on which nothing else depends.
        model_class = type(self.model)
        model_class.backward = added_up(model_class.backward)

    trainer_class._prepare_model = _prepare_model


def added_up(original: Callable[..., Any]) -> Callable[..., Any]:
    """A weighting's ``backward`` that adds to the gradients that it finds."""

    @functools.wraps(original)
    def backward(self: Any, losses: Any, **kwargs: Any) -> Any:
        step = step_of(self)
        aside, zeroed = _written_over(self, step)
        if aside is None:
            return original(self, losses, **kwargs)
        with step.added_up(aside, zeroed):
            return original(self, losses, **kwargs)

    return backward


def _written_over(model: Any, step: Step) -> tuple[Sequence[Tensor] | None, Sequence[Tensor]]:
    """The parameters whose gradients are to be put aside, and those whose are to be zero."""
    if step.present is not None:  # what no present task reaches is to get none at all
        return list(model.parameters()), ()
    weighting = type(model).__bases__[-1]
    known = weighting.__module__.startswith(_KNOWN)
    if known and (model.rep_grad or weighting.__name__ in _BY_THEMSELVES):
        return None, ()
    divided = known and weighting.__name__ == _DIVIDES
    decoders = list(model.decoders.parameters()) if divided else ()
    return list(model.get_share_params()), decoders
