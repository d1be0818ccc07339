"""LibMTL's MGDA, IMTL, GradNorm and Aligned_MTL: each task's weight is read off the Gramian.

Of the gradients themselves, or of those of the representations (``rep_grad``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.gradients import gramian
from libmtl_recon.gradients.combine import combine
from libmtl_recon.weighting.aligned_mtl import aligned
from libmtl_recon.weighting.gradnorm import imbalance, inverse_rates
from libmtl_recon.weighting.imtl import impartial
from libmtl_recon.weighting.mgda import normalisers, shortest


@dataclass(frozen=True)
class _Gradients:
    """One step's gradients.

    Attributes:
        rows: ``[T, d]``, by which the tasks are weighed.
        matrix: ``[T, T]``, float64, on the CPU: their Gramian.
        representations: With ``rep_grad``: those that are weighed.
    """

    rows: Tensor
    matrix: Tensor
    representations: Any

    @property
    def lengths(self) -> Tensor:
        """``[T]``, float64, on the CPU."""
        return self.matrix.diagonal().clamp_min(0.0).sqrt()


def _gradients(model: Any, losses: Tensor) -> _Gradients:
    found = model._get_grads(losses, mode="backward")
    representations, rows = found if model.rep_grad else (None, found)
    # The only time that the step waits for its device.
    return _Gradients(rows, gramian(rows).cpu(), representations)


def _assign(model: Any, weights: Tensor, gradients: _Gradients) -> None:
    """Give the shared parameters the weighted sum: weights ``[T]`` in float64, on the CPU."""
    if model.rep_grad:
        own = weights.to(gradients.rows)
        model._backward_new_grads(own, per_grads=gradients.representations)
    else:
        model._reset_grad(combine(weights, gradients.rows, gradients.matrix))


def mgda(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[Any]:
    """MGDA's update; returns the weights of the normalised gradients, ``[T]``.

    Raises:
        UsageError: There is no normaliser of the name ``mgda_gn``.
    """
    gradients = _gradients(self, losses)
    divided = normalisers(kwargs["mgda_gn"], gradients.lengths, losses)
    weights = shortest(gradients.matrix / divided / divided[:, None])
    # LibMTL's representations are weighed as they are.
    _assign(self, weights if self.rep_grad else weights / divided, gradients)
    return weights.numpy()


def imtl(self: Any, losses: Tensor, **_: Any) -> NDArray[Any]:
    """IMTL's update, with its learned scales of the losses; returns the weights ``[T]``."""
    gradients = _gradients(self, self.loss_scale.exp() * losses - self.loss_scale)
    weights = impartial(gradients.matrix)
    _assign(self, weights, gradients)
    return weights.numpy()


def gradnorm(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[Any]:
    """GradNorm's update from the second epoch on; returns the weights ``[T]``."""
    scale = self.task_num * torch.softmax(self.loss_scale, dim=-1)
    gradients = _gradients(self, losses)
    first = torch.as_tensor(self.train_loss_buffer[:, 0], dtype=torch.float64)
    rates = inverse_rates(losses.detach().cpu().double(), first, kwargs["alpha"])
    imbalance(scale.cpu().double(), gradients.lengths, rates).backward()
    weights: Tensor = scale.detach().cpu().double()
    _assign(self, weights, gradients)
    return weights.numpy()


def aligned_mtl(self: Any, losses: Tensor, **_: Any) -> NDArray[Any]:
    """Aligned-MTL's update; returns the weights ``[T]``."""
    gradients = _gradients(self, losses)
    weights = aligned(gradients.matrix, torch.finfo(gradients.rows.dtype).eps)
    _assign(self, weights, gradients)
    return weights.numpy()
