"""Gradients add up over the ``backward`` calls before an optimiser's step, for every weighting.

A weighting of LibMTL writes over the shared parameters' gradients, or scales or clips them, as if
there were none before its own: ``backward`` of several micro-batches would leave that of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from libmtl_recon.integrations.libmtl.step.step import Step, step_of

# They differentiate a weighted sum of losses, or of representations, and torch adds up.
_BY_THEMSELVES = frozenset(("DWA", "EW", "FAMO", "GLS", "RLW", "RotoGrad", "STCH", "UW"))
# It divides its decoders' gradients.
_DIVIDES = "MoDo"
_KNOWN = ("LibMTL.", "libmtl_recon.")


def add_up(proceed: Callable[..., Any], model: Any, /, losses: Any, **kwargs: Any) -> Any:
    """Have a weighting's ``backward`` add to the gradients that it finds."""
    step = step_of(model)
    aside, zeroed = _written_over(model, step)
    if aside is None:
        return proceed(model, losses, **kwargs)
    with step.added_up(aside, zeroed):
        return proceed(model, losses, **kwargs)


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
