"""Any weighting of :mod:`libmtl_recon.weighting` as a weighting and an aggregator of TorchJD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from libmtl_recon.torchjd.exact import ExactAggregator
from libmtl_recon.weighting.functions import weight_function
from libmtl_recon.weighting.nash_mtl import NashMTL


class FunctionWeighting(Weighting[PSDMatrix]):
    """A weighting of a Jacobian's rows by a function of its Gramian, for TorchJD's ``autogram``.

    Args:
        weights: A function of the Gramian, such as :func:`libmtl_recon.weighting.upgrad_weights` or
            ``functools.partial(cagrad_weights, c=0.4)``; or an object with such a method
            ``weights``, such as ``GradVac(beta=0.01)``, whose state is kept.

    Raises:
        UsageError: It is neither.

    Example:
        >>> import torch
        >>> from libmtl_recon.torchjd import FunctionWeighting
        >>> from libmtl_recon.weighting import upgrad_weights
        >>> FunctionWeighting(upgrad_weights)(torch.eye(2)).tolist()
        [0.5, 0.5]
    """

    def __init__(self, weights: Any) -> None:
        super().__init__()
        self.weights = weights
        self._function: Callable[[Tensor], Tensor] = weight_function(
            "weights", weights, (Weighting,)
        )

    @torch.no_grad()
    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Return the weights ``[T]``, in the Gramian's dtype, on its device.

        Args:
            gramian: ``[T, T]``, any floating dtype; in float32, gradients that are nearly
                dependent cannot be told from those that are.

        Raises:
            UsageError: The Gramian is not finite, or its number of tasks is not that of the state.
        """
        return self._function(gramian).to(dtype=gramian.dtype, device=gramian.device)

    def reset(self) -> None:
        """Reset the state of the object."""
        reset = getattr(self.weights, "reset", None)
        if callable(reset):
            reset()

    def extra_repr(self) -> str:
        """Return the function or object as a string."""
        return f"{getattr(self.weights, '__name__', self.weights)}"


class NashMTLWeighting(FunctionWeighting):
    """A weighting of a Jacobian's rows by Nash-MTL, from the Gramian, without a convex solver.

    TorchJD's own ``NashMTL`` needs the matrix of the gradients, and the packages cvxpy and ecos.

    Args:
        update_weights_every: The number of steps between two computations of the weights.
        max_norm: The length to which a longer update is shortened, or None for no limit.

    Raises:
        UsageError: See :class:`libmtl_recon.weighting.NashMTL`.
    """

    def __init__(self, update_weights_every: int = 1, max_norm: float | None = 1.0) -> None:
        super().__init__(NashMTL(update_weights_every, max_norm))

    def extra_repr(self) -> str:
        """Return the arguments as a string."""
        own = self.weights
        return f"update_weights_every={own.update_weights_every}, max_norm={own.max_norm}"


class FunctionAggregator(ExactAggregator):
    """An aggregator of a Jacobian by a function of its Gramian, which is computed in float64.

    Args:
        weights: As for :class:`FunctionWeighting`.

    Raises:
        UsageError: It is not a weighting.

    Example:
        >>> import torch
        >>> from libmtl_recon.torchjd import FunctionAggregator
        >>> from libmtl_recon.weighting import imtl_g_weights
        >>> FunctionAggregator(imtl_g_weights)(torch.tensor([[3.0, 0.0], [0.0, 1.0]])).tolist()
        [0.75, 0.75]
    """

    gramian_weighting: FunctionWeighting

    def __init__(self, weights: Any) -> None:
        super().__init__(
            weights if isinstance(weights, FunctionWeighting) else FunctionWeighting(weights)
        )

    def reset(self) -> None:
        """Reset the state of the object."""
        self.gramian_weighting.reset()

    def __repr__(self) -> str:
        return f"FunctionAggregator({self.gramian_weighting.extra_repr()})"
