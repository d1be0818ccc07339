"""A script's own weighting on several ranks: it may not differentiate the losses by itself.

Each rank's graph leads to its own part of the batch. Gradients that a weighting computes directly
would cover that part alone, and its weights would be silently wrong. So it is given losses that are
cut off from the network, and gradients that it requests with LibMTL's own functions, or by
``backward`` of a function of the losses, are computed over all ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.step.step import Step, step_of

# autograd's message where the gradient of an unused tensor is requested.
_UNUSED = "not have been used in the graph"


def of_unknown_weighting(
    proceed: Callable[..., Any], model: Any, losses: Tensor, **kwargs: Any
) -> Any:
    """Run the ``backward`` of an unknown weighting on losses that are cut off.

    Raises:
        ReconError: It differentiates them by itself, with respect to the network.
    """
    step: Step = step_of(model)
    if not step.batches:
        step.open_any(losses)
    try:
        result = proceed(model, step.hand_over(), **kwargs)
    except RuntimeError as error:
        if _UNUSED not in str(error):
            raise
        raise _differentiates(model) from error
    step.back_propagate(model)
    if not step.asked and losses.requires_grad:
        raise _differentiates(model)
    return result


def _differentiates(model: Any) -> ReconError:
    name = type(model).__bases__[-1].__name__
    return ReconError(
        f"--weighting {name} differentiates the losses itself, so that under torchrun each rank "
        "would use the gradients of its own part of the batch only. Call self._get_grads(losses, "
        "mode='backward') or self._compute_grad(losses, mode), as LibMTL's weightings do, or "
        "train in one process."
    )
