"""LibMTL's Nash-MTL on the tasks' Gramian."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.integrations.libmtl.data_parallel.averaging import average_grad
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.step.step import step_of
from libmtl_recon.integrations.libmtl.step.task_gradients import loss_gramian


def backward(self: Any, losses: Tensor, **kwargs: Any) -> NDArray[Any]:
    """Compute the gradient of the losses weighted by the bargaining solution; return the weights.

    The weights are ``[T]``. All parameters get the gradient; that of the shared ones is clipped.

    Raises:
        UsageError: ``rep_grad`` is on.
    """
    for name in ("update_weights_every", "optim_niter", "max_norm"):
        setattr(self, name, kwargs[name])
    if self.step == 0:
        self._init_optim_problem()
    solves = self.step % self.update_weights_every == 0
    self.step += 1
    if solves:
        matrix = loss_gramian(self, losses)
        length = torch.linalg.matrix_norm(matrix)
        self.normalization_factor = length.reshape(1).numpy()
        found = self.solve_optimization((matrix / length).numpy())
    else:
        found = self.prvs_alpha
    weights = torch.from_numpy(found).to(self.device, torch.float32)
    (weights * losses).sum().backward()
    # The gradient of the whole step is clipped.
    step_of(self).back_propagate(self)
    if self.max_norm > 0:
        group = ranks()
        if group is not None:
            average_grad(list(self.get_share_params()), group)
        torch.nn.utils.clip_grad_norm_(self.get_share_params(), self.max_norm)
    returned: NDArray[Any] = weights.cpu().numpy()
    return returned
