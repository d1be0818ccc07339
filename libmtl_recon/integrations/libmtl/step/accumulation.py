"""Accumulate gradients over the ``backward`` calls before an optimiser's step, for all weightings.

LibMTL's weightings overwrite, scale or clip the shared parameters' gradients as if there were none
before: after ``backward`` of several micro-batches only the last one's gradients would be left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from libmtl_recon.integrations.libmtl.step.step import Step, step_of

# They differentiate a weighted sum of losses, or of representations, and torch accumulates.
_BY_THEMSELVES = frozenset(("DWA", "EW", "FAMO", "GLS", "RLW", "RotoGrad", "STCH", "UW"))
# It divides its decoders' gradients.
_DIVIDES = "MoDo"
_KNOWN = ("LibMTL.", "libmtl_recon.")


def add_up(proceed: Callable[..., Any], model: Any, /, losses: Any, **kwargs: Any) -> Any:
    """Make a weighting's ``backward`` add to the existing gradients."""
    step = step_of(model)
    aside, zeroed = _written_over(model, step)
    if aside is None:
        return proceed(model, losses, **kwargs)
    with step.added_up(aside, zeroed):
        return proceed(model, losses, **kwargs)


def _written_over(model: Any, step: Step) -> tuple[Sequence[Tensor] | None, Sequence[Tensor]]:
    """Return the parameters whose gradients to set aside, and those whose to zero."""
    if step.present is not None:  # parameters that no present task reaches get no gradient
        return list(model.parameters()), ()
    weighting = type(model).__bases__[-1]
    known = weighting.__module__.startswith(_KNOWN)
    if known and (model.rep_grad or weighting.__name__ in _BY_THEMSELVES):
        return None, ()
    divided = known and weighting.__name__ == _DIVIDES
    decoders = list(model.decoders.parameters()) if divided else ()
    return list(model.get_share_params()), decoders
