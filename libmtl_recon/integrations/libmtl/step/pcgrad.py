"""LibMTL's PCGrad on the tasks' Gramian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.gradients import gramian
from libmtl_recon.gradients.combine import combine
from libmtl_recon.integrations.libmtl.step.shared import draw_orders, shared_gradients
from libmtl_recon.weighting.pcgrad import projected


def make_backward(guard: float) -> Callable[..., NDArray[np.float64]]:
    """PCGrad's ``backward``.

    Args:
        guard: What this LibMTL adds to ‖gⱼ‖² where it divides.
    """

    def backward(self: Any, losses: Tensor, **_: Any) -> NDArray[np.float64]:
        gradients = shared_gradients(self, losses)
        # The only time that the step waits for its device.
        matrix = gramian(gradients).cpu()
        weights = projected(matrix, draw_orders(len(matrix), own=True), guard)
        self._reset_grad(combine(weights, gradients, matrix))
        return np.asarray(weights)

    return backward
