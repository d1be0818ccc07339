"""LibMTL's CAGrad on the tasks' Gramian, for any number of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.step.task_gradients import shared_gradients
from libmtl_recon.weighting.cagrad import cagrad_step


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
    """CAGrad's update on the shared parameters; returns w on the simplex, ``[T]``.

    Raises:
        UsageError: ``rep_grad`` is on, or ``rescale`` is none of 0, 1, 2.
    """
    gradients = shared_gradients(self, losses)
    step = cagrad_step(gradients.matrix, kwargs["calpha"], kwargs["rescale"])
    gradients.hand_out(step.weights)
    return np.asarray(step.worst)
