"""LibMTL's MGDA, IMTL, GradNorm and Aligned_MTL, with each task's weight from the Gramian.

The Gramian is that of the gradients, or of those of the representations (``rep_grad``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import naming
from libmtl_recon.gradients import gramian
from libmtl_recon.integrations.libmtl.step.task_gradients import (
    StoredGradients,
    TaskGradients,
    shared_gradients,
)
from libmtl_recon.weighting.aligned_mtl import aligned
from libmtl_recon.weighting.gradnorm import imbalance, inverse_rates
from libmtl_recon.weighting.imtl import impartial
from libmtl_recon.weighting.mgda import normalisers, shortest


@dataclass(frozen=True)
class _OfRepresentations(StoredGradients):
    """Gradients of the representations, which ``rep_grad`` weights.

    Attributes:
        representations: The rows, in LibMTL's form.
    """

    representations: Any

    def hand_out(self, weights: Tensor) -> None:
        """Set the shared parameters' gradient to that of the weighted sum."""
        own = weights.to(self.rows)
        self.model._backward_new_grads(own, per_grads=self.representations)


def _gradients(model: Any, losses: Tensor) -> TaskGradients:
    if not model.rep_grad:
        return shared_gradients(model, losses)
    representations, rows = model._get_grads(losses, mode="backward")
    return _OfRepresentations(model, rows, gramian(rows).cpu(), representations)


def _lengths(gradients: TaskGradients) -> Tensor:
    return gradients.matrix.diagonal().clamp_min(0.0).sqrt()


def mgda(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[Any]:
    """Compute MGDA's update; return the weights of the normalised gradients, ``[T]``.

    Raises:
        UsageError: There is no normaliser named ``mgda_gn``.
    """
    gradients = _gradients(self, losses)
    with naming(normalization="mgda_gn"):
        divided = normalisers(kwargs["mgda_gn"], _lengths(gradients), losses)
    weights = shortest(gradients.matrix / divided / divided[:, None])
    # LibMTL's representations are weighted unnormalised.
    gradients.hand_out(weights if self.rep_grad else weights / divided)
    return weights.numpy()


def imtl(self: Any, losses: Tensor, **_: Any) -> NDArray[Any]:
    """Compute IMTL's update, with its learned scales of the losses; return the weights ``[T]``."""
    gradients = _gradients(self, self.loss_scale.exp() * losses - self.loss_scale)
    weights = impartial(gradients.matrix)
    gradients.hand_out(weights)
    return weights.numpy()


def gradnorm(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[Any]:
    """Compute GradNorm's update from the second epoch on; return the weights ``[T]``."""
    scale = self.task_num * torch.softmax(self.loss_scale, dim=-1)
    gradients = _gradients(self, losses)
    first = torch.as_tensor(self.train_loss_buffer[:, 0], dtype=torch.float64)
    rates = inverse_rates(losses.detach().cpu().double(), first, kwargs["alpha"])
    imbalance(scale.cpu().double(), _lengths(gradients), rates).backward()
    weights: Tensor = scale.detach().cpu().double()
    gradients.hand_out(weights)
    return weights.numpy()


def aligned_mtl(self: Any, losses: Tensor, **_: Any) -> NDArray[Any]:
    """Compute Aligned-MTL's update; return the weights ``[T]``."""
    gradients = _gradients(self, losses)
    weights = aligned(gradients.matrix, torch.finfo(gradients.dtype).eps)
    gradients.hand_out(weights)
    return weights.numpy()
