"""UPGrad and FairGrad of LibMTL's main branch on the tasks' Gramian in float64.

They use the gradients only through their Gramian, which LibMTL computes in the gradients' own
dtype; there the squares of large gradients overflow, and those of small ones underflow to zero.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.step.task_gradients import loss_gramian, shared_gradients

# Squared norms beyond which FairGrad's solver does not converge from its start.
_SMALLEST, _LARGEST = 1e-12, 1e12


def upgrad(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """Compute UPGrad's update with LibMTL's own projections; return the weights ``[T]``.

    Raises:
        UsageError: ``rep_grad`` is on.
    """
    own = sys.modules[_class_of(self, "UPGrad").__module__]
    gradients = shared_gradients(self, losses)
    matrix = gradients.matrix
    scaled = own._normalize(matrix, kwargs["UPGrad_norm_eps"])
    mean = torch.eye(len(matrix), dtype=matrix.dtype) / len(matrix)
    weights = own._project_weights(mean, own._regularize(scaled, kwargs["UPGrad_reg_eps"])).sum(0)
    gradients.hand_out(weights)
    return np.asarray(weights)


def fairgrad(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """Compute FairGrad's loss weights ``[T]``; all parameters get the weighted losses' gradient.

    Raises:
        UsageError: ``rep_grad`` is on.
    """
    from scipy.optimize import least_squares

    matrix = loss_gramian(self, losses).numpy()
    exponent = 1 / kwargs["FairGrad_alpha"]
    left, right = _units(matrix, kwargs["FairGrad_alpha"])
    scaled = left[:, None] * matrix * right

    def residuals(w: NDArray[np.float64]) -> NDArray[np.float64]:
        unfair: NDArray[np.float64] = scaled @ w - (1 / w) ** exponent
        return unfair

    start = np.full(len(matrix), 1 / len(matrix))
    weights: NDArray[np.float64] = right * least_squares(residuals, start, bounds=(0, np.inf)).x
    (torch.from_numpy(weights).to(losses) * losses).sum().backward()
    return weights


def _units(
    matrix: NDArray[np.float64], alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scales of FairGrad's equations M w = w^(-1/α) and of its weights.

    They are ones, so that the solver behaves as in LibMTL, if the squares of all gradients are of
    a size that it can handle. Otherwise the equations are expressed in units of each gradient's
    norm, with w = right v, so that they read left M right v = v^(-1/α) with norms to powers
    between -1 and 1.
    """
    squares = matrix.diagonal()
    ones = np.ones_like(squares)
    there = squares > 0
    if not ((squares[there] < _SMALLEST) | (squares[there] > _LARGEST)).any():
        return ones, ones
    norms = np.sqrt(np.where(there, squares, 1.0))
    right = norms ** (-2 * alpha / (1 + alpha))
    return right ** (1 / alpha), right


def _class_of(model: Any, name: str) -> type:
    return next(base for base in type(model).__mro__ if base.__name__ == name)
