"""LibMTL's PCGrad on the tasks' Gramian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.step.orders import draw_orders
from libmtl_recon.integrations.libmtl.step.task_gradients import shared_gradients
from libmtl_recon.weighting.pcgrad import projected


def make_backward(guard: float) -> Callable[..., NDArray[np.float64]]:
    """Return PCGrad's ``backward``.

    Args:
        guard: The value that this LibMTL adds to ‖gⱼ‖² where it divides.
    """

    def backward(self: Any, losses: Tensor, **_: Any) -> NDArray[np.float64]:
        gradients = shared_gradients(self, losses)
        orders = draw_orders(len(gradients.matrix), own=True)
        weights = projected(gradients.matrix, orders, guard)
        gradients.hand_out(weights)
        return np.asarray(weights)

    return backward
