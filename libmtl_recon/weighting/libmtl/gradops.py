"""GradOPS as a LibMTL weighting."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from LibMTL.weighting.abstract_weighting import AbsWeighting
from numpy.typing import NDArray
from torch import Tensor

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradient import gramian, scatter_gradient, task_gradients
from libmtl_recon.weighting.gradops import gradops_weights


class GradOPS(AbsWeighting):  # type: ignore[misc]  # LibMTL is untyped
    """``--weighting GradOPS``: Algorithm 1 of the GradOPS paper on the shared parameters.

    ``--gradops_alpha`` is the exponent α of Eq. 5. Decoders, and layers that Recon made
    task-specific, are updated by their own task's gradient.
    """

    def init_param(self) -> None:
        """Refuse what GradOPS is not defined for, before the first step."""
        if self.rep_grad:
            raise UsageError(
                "--rep_grad",
                "cannot be combined with --weighting GradOPS, which projects the gradients of the "
                "shared parameters, not of the representation",
                True,
                "Leave --rep_grad out.",
            )
        if not any(p.requires_grad for p in self.get_share_params()):
            raise ReconError(
                "--weighting GradOPS needs shared parameters that train, and this network has "
                "none: every layer is task-specific or frozen. Lower --recon_k, unfreeze a "
                "layer, or use --weighting EW."
            )

    def backward(self, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
        """One step's gradients: the GradOPS update on the shared parameters.

        Args:
            losses: ``[T]``, with their graph.
            **kwargs: ``gradops_alpha``.

        Returns:
            The weights ``[T]`` that the original gradients got.

        Raises:
            ReconError: A task's gradient is not finite.
        """
        gradients = self._compute_grad(losses, mode="autograd")
        matrix = gramian(gradients)
        self._refuse_non_finite(matrix)
        weights = gradops_weights(matrix, kwargs["gradops_alpha"])
        update = weights.to(gradients) @ gradients
        scatter_gradient(update, list(self.get_share_params()))
        return np.asarray(weights.cpu())

    def _compute_grad(self, losses: Tensor, mode: str, rep_grad: bool = False) -> Tensor:
        # LibMTL's own name and layout, so that what reads per-task gradients there reads ours.
        shared = list(self.get_share_params())
        ids = {id(p) for p in shared}
        specific = [p for p in self.parameters() if id(p) not in ids]
        return task_gradients(losses, shared, specific)

    def _refuse_non_finite(self, matrix: Tensor) -> None:
        broken = ~torch.isfinite(matrix.diagonal())
        if bool(broken.any()):
            names = [name for name, bad in zip(self.task_name, broken, strict=True) if bad]
            raise ReconError(
                f"The gradient of task {', '.join(map(repr, names))} is not finite (NaN or inf), "
                "so training stops here. Look at this task's loss and labels, or lower --lr."
            )
