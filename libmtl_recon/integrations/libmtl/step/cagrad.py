"""LibMTL's CAGrad on the tasks' Gramian, for any number of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.gradients import gramian
from libmtl_recon.gradients.combine import combine
from libmtl_recon.integrations.libmtl.step.shared import shared_gradients
from libmtl_recon.weighting.cagrad import cagrad_step


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """CAGrad's update on the shared parameters; returns w on the simplex, ``[T]``.

    Raises:
        UsageError: ``rep_grad`` is on, or ``rescale`` is none of 0, 1, 2.
    """
    gradients = shared_gradients(self, losses)
    matrix = gramian(gradients).cpu()
    step = cagrad_step(matrix, kwargs["calpha"], kwargs["rescale"])
    self._reset_grad(combine(step.weights, gradients, matrix))
    return np.asarray(step.worst)
