"""GradOPS as a weighting and an aggregator of TorchJD."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from libmtl_recon.torchjd.exact import ExactAggregator
from libmtl_recon.weighting.gradops import (
    Stationary,
    check_alpha,
    check_static,
    check_stationary,
    gradops_weights,
)


class GradOPSWeighting(Weighting[PSDMatrix]):
    """A weighting of a Jacobian's rows by GradOPS, from its Gramian.

    It is for TorchJD's ``autogram``, whose engine computes the Gramian without the Jacobian.

    Args:
        alpha: The exponent α of Eq. 5.
        static: One positive number per task, which replaces Eq. 5; α must then be 0.
        stationary: ``stop`` or ``min_norm``, the update where all projected gradients are zero; see
            :func:`libmtl_recon.gradops_weights`.

    Raises:
        UsageError: α is not finite, the static weights are not finite numbers above 0, or there is
            no such ``stationary``.
    """

    def __init__(
        self,
        alpha: float = 0.0,
        static: Sequence[float] | None = None,
        stationary: Stationary = "stop",
    ) -> None:
        super().__init__()
        self.alpha = check_alpha("alpha", alpha)
        if static is not None:
            static = check_static("static", static, len(static), alpha).tolist()
        self.static = static
        check_stationary("stationary", stationary)
        self.stationary: Stationary = stationary

    @torch.no_grad()
    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Return the weights; see :func:`libmtl_recon.gradops_weights`.

        Args:
            gramian: ``[T, T]``, any floating dtype; in float32, gradients that are nearly
                dependent cannot be told from those that are.

        Returns:
            ``[T]``, in the Gramian's dtype, on its device.

        Raises:
            UsageError: The Gramian is not finite, or the static weights are not T numbers.
        """
        weights = gradops_weights(gramian, self.alpha, self.static, self.stationary)
        return weights.to(dtype=gramian.dtype, device=gramian.device)

    def extra_repr(self) -> str:
        """Return the arguments as a string."""
        chosen = f"alpha={self.alpha:g}" if self.static is None else f"static={self.static}"
        return chosen if self.stationary == "stop" else f"{chosen}, stationary='min_norm'"


class GradOPS(ExactAggregator):
    """Algorithm 1 of the GradOPS paper as an aggregator of TorchJD.

    The Gramian is computed in float64, and the update is summed in float64 where the gradients
    need it, whatever the Jacobian's dtype.

    Args:
        alpha: The exponent α of Eq. 5: positive values favour the dominating tasks, negative ones
            the dominated.
        static: One positive number per task, which replaces Eq. 5; α must then be 0.
        stationary: ``stop`` or ``min_norm``, the update where all projected gradients are zero; see
            :func:`libmtl_recon.gradops_weights`.

    Raises:
        UsageError: α is not finite, the static weights are not finite numbers above 0, or there is
            no such ``stationary``.

    Example:
        >>> from torchjd.autojac import jac_to_grad, mtl_backward
        >>> mtl_backward([loss1, loss2], features=features)  # doctest: +SKIP
        >>> jac_to_grad(encoder.parameters(), GradOPS(alpha=-1.0))  # doctest: +SKIP
    """

    gramian_weighting: GradOPSWeighting

    def __init__(
        self,
        alpha: float = 0.0,
        static: Sequence[float] | None = None,
        stationary: Stationary = "stop",
    ) -> None:
        super().__init__(GradOPSWeighting(alpha, static, stationary))

    def __repr__(self) -> str:
        return f"GradOPS({self.gramian_weighting.extra_repr()})"
