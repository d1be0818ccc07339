"""LibMTL's GradVac on the tasks' Gramians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import columns, layer_gramians
from libmtl_recon.gradients.combine import combine
from libmtl_recon.integrations.libmtl.step.orders import draw_orders
from libmtl_recon.integrations.libmtl.step.task_gradients import (
    shared_gradients,
    stored_gradients,
)
from libmtl_recon.weighting.gradvac import turned


def make_release_backward(*, always: bool) -> Callable[..., NDArray[np.float64]]:
    """Return the ``backward`` of the release's GradVac, whose one group is the whole model.

    Args:
        always: Move the targets in every step; otherwise only where a gradient was changed.
    """

    def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
        gradients = shared_gradients(self, losses)
        matrix, tasks = gradients.matrix, len(gradients.matrix)
        if not hasattr(self, "rho_T"):
            self.rho_T = torch.zeros(tasks, tasks, device=self.device)
        orders = draw_orders(tasks, own=False)
        weights, moved = turned(matrix, self.rho_T.cpu(), orders, kwargs["beta"], always=always)
        self.rho_T = moved.to(self.rho_T)
        gradients.hand_out(weights)
        return np.asarray(weights)

    return backward


def make_main_backward(guard: float) -> Callable[..., NDArray[np.float64]]:
    """Return the ``backward`` of the main branch's GradVac, which has groups of parameters.

    Args:
        guard: The value added to a norm before dividing by it.
    """

    def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
        if self.step == 0:
            self._init_rho(kwargs["GradVac_group_type"])
        beta = kwargs["GradVac_beta"]
        if list(self.k_idx) == [-1]:
            gradients = shared_gradients(self, losses)
            gradients.hand_out(_weights(self, gradients.matrix[None], beta, guard)[0])
        else:
            rows = stored_gradients(self, losses)
            grouped = rows[:, : sum(self.k_idx)]
            matrices = layer_gramians(grouped, self.k_idx).cpu()
            weights = _weights(self, matrices, beta, guard)
            groups = zip(weights, grouped.split(self.k_idx, dim=1), matrices, strict=True)
            # Columns in no group are left unchanged.
            rest = rows[:, sum(self.k_idx) :].sum(dim=0)
            self._reset_grad(torch.cat([*(combine(*group) for group in groups), rest]))
        self.step += 1
        # LibMTL returns no weights, since there are several per task.
        return np.ones(len(losses))

    return backward


def _weights(model: Any, matrices: Tensor, beta: float, guard: float) -> Tensor:
    """Return the weights ``[groups, T]`` for the groups' Gramians; move the targets."""
    targets = model.rho_T.permute(2, 0, 1).cpu()
    orders = draw_orders(matrices.shape[1], own=False)
    weights, moved = turned(matrices, targets, orders, beta, guard=guard)
    model.rho_T = moved.permute(1, 2, 0).to(model.rho_T)
    return weights


def layer_widths(model: Any) -> list[int]:
    """Return the number of neighbouring gradient columns of each module.

    Args:
        model: LibMTL's model.
    """
    owners: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), module)
    widths: list[int] = []
    last = None
    for parameter in model.get_share_params():
        owner = owners[id(parameter)]
        if owner is last:
            widths[-1] += columns.width(parameter)
        else:
            widths.append(columns.width(parameter))
        last = owner
    return widths


def init_rho(self: Any, group_type: int) -> None:
    """Set the groups, and the target cosines to zeros ``[T, T, groups]``.

    Raises:
        UsageError: There is no such type.
    """
    if group_type == 0:
        self.k_idx = [-1]  # LibMTL's value for all columns
    elif group_type == 1:
        self.k_idx = layer_widths(self)
    elif group_type == 2:
        self.k_idx = columns.widths(list(self.get_share_params()))
    else:
        raise UsageError(
            "--GradVac_group_type",
            "must be 0 (the whole model), 1 (layers) or 2 (matrices)",
            group_type,
            "Leave it out for the whole model.",
        )
    self.rho_T = torch.zeros(self.task_num, self.task_num, len(self.k_idx), device=self.device)
