"""GradOPS for TorchJD (https://torchjd.org), and TorchJD's weightings for our Gramians.

Needs the package ``torchjd``: ``pip install 'libmtl-recon[torchjd]'``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args, get_origin

import torch
from torch import Tensor

from libmtl_recon.errors import MissingPackageError, ReconError, UsageError
from libmtl_recon.gradients import gramian as exact_gramian
from libmtl_recon.gradients.combine import combine
from libmtl_recon.weighting.checking import check_gramian
from libmtl_recon.weighting.gradops import (
    Stationary,
    check_alpha,
    check_static,
    check_stationary,
    gradops_weights,
)

try:
    from torchjd.aggregation import Aggregator, GramianWeightedAggregator, Weighting
    from torchjd.linalg import Matrix, PSDMatrix
except ModuleNotFoundError as error:
    if error.name not in ("torchjd", "torchjd.linalg"):
        raise
    raise MissingPackageError("libmtl_recon.torchjd", "torchjd>=0.18", "torchjd") from error

__all__ = ["GradOPS", "GradOPSWeighting", "gramian_weights"]


class GradOPSWeighting(Weighting[PSDMatrix]):
    """The weights that GradOPS gives the rows of a Jacobian, from its Gramian.

    For TorchJD's ``autogram``, whose engine makes the Gramian without the Jacobian.

    Args:
        alpha: The exponent α of Eq. 5.
        static: One number above 0 a task that takes the place of Eq. 5; α must be 0 then.
        stationary: ``stop`` or ``min_norm``, for where all projected gradients are zero; see
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
        """See :func:`libmtl_recon.gradops_weights`.

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
        """The arguments, as they are written."""
        chosen = f"alpha={self.alpha:g}" if self.static is None else f"static={self.static}"
        return chosen if self.stationary == "stop" else f"{chosen}, stationary='min_norm'"


class GradOPS(GramianWeightedAggregator):
    """Algorithm 1 of the GradOPS paper as an aggregator of TorchJD.

    The Gramian is taken in float64, and the update is summed in float64 where the gradients
    need it, whatever the Jacobian's dtype.

    Args:
        alpha: The exponent α of Eq. 5: above 0 the dominating tasks gain, below 0 the dominated.
        static: One number above 0 a task that takes the place of Eq. 5; α must be 0 then.
        stationary: ``stop`` or ``min_norm``, for where all projected gradients are zero; see
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
        weighting = GradOPSWeighting(alpha, static, stationary)
        super().__init__(weighting)
        # The base class composes it with a Gramian in the Jacobian's own dtype.
        self.weighting = weighting << _gramian

    @torch.no_grad()
    def forward(self, matrix: Matrix, /) -> Tensor:
        """Aggregate.

        Args:
            matrix: The Jacobian ``[T, d]``, any floating dtype.

        Returns:
            The update ``[d]``, in the Jacobian's dtype, on its device.

        Raises:
            UsageError: A row is not finite, or the static weights are not T numbers.
        """
        return combine(self.weighting(matrix).cpu(), matrix)

    def __repr__(self) -> str:
        return f"GradOPS({self.gramian_weighting.extra_repr()})"


def _gramian(matrix: Matrix) -> PSDMatrix:
    return cast(PSDMatrix, exact_gramian(matrix))


# What TorchJD's aggregators put in front of a weighting of the Gramian.
_GRAMIANS = (_gramian, getattr(GramianWeightedAggregator(GradOPSWeighting()).weighting, "fn", None))


@torch.no_grad()
def gramian_weights(weighting: Weighting[PSDMatrix], gramian: Tensor) -> Tensor:
    """The weights that a weighting of TorchJD gives T losses, from their gradients' Gramian.

    They are those of TorchJD's aggregator of that name for the matrix of the gradients, which is
    not needed here: the update is one backward pass.

    Args:
        weighting: A ``Weighting[PSDMatrix]`` of TorchJD, such as ``UPGradWeighting()``. One with a
            state (``GradVacWeighting``, ``PCDWeighting``, ``CRMOGMWeighting``) keeps it: make it
            once, before the loop. Its preference vector, if it has one, must be float64 as well
            (``AlignedMTLWeighting`` needs that).
        gramian: ``[T, T]``, of the gradients: that of
            :meth:`libmtl_recon.gradients.Record.gramian`, in float64, or any other.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU, where that has no float64).

    Raises:
        UsageError: The weighting is none of TorchJD's, or one that takes the matrix of the
            gradients; or the Gramian is not a symmetric matrix of finite numbers.
        ReconError: The weights are not T finite numbers.

    Example:
        >>> import torch
        >>> from torchjd.aggregation import MGDAWeighting
        >>> from libmtl_recon.gradients import recording
        >>> from libmtl_recon.torchjd import gramian_weights
        >>> encoder = torch.nn.Linear(8, 4)
        >>> heads = [torch.nn.Linear(4, 1) for _ in range(3)]
        >>> weighting = MGDAWeighting()
        >>> with recording(encoder) as record:
        ...     z = encoder(torch.randn(2, 8))
        ...     losses = [head(z).square().mean() for head in heads]
        >>> record.backward(gramian_weights(weighting, record.gramian(losses)))
        >>> encoder.weight.grad.shape
        torch.Size([4, 8])
    """
    _check_weighting(weighting)
    matrix = check_gramian(gramian)
    found: Any = weighting(matrix)
    if not isinstance(found, Tensor) or found.shape != matrix.shape[:1]:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ReconError(
            f"{_name(weighting)} gave {shape} for the Gramian of {len(matrix)} tasks, where it "
            "must give one weight for each. If it keeps a state, call its reset()."
        )
    if not bool(found.isfinite().all()):
        raise ReconError(
            f"{_name(weighting)} gave weights that are not finite. Look for tasks whose gradients "
            "are zero, or nearly the same, in the Gramian."
        )
    return found.to(matrix)


def _check_weighting(weighting: Any) -> None:
    if isinstance(weighting, GramianWeightedAggregator):
        inner = _name(weighting.gramian_weighting)
        raise _refused(weighting, f"Pass the aggregator's `gramian_weighting`, which is a {inner}.")
    if isinstance(weighting, Aggregator):
        raise _refused(
            weighting,
            "TorchJD has no weighting of the Gramian for it: take one that has, such as UPGrad's "
            "UPGradWeighting, or take TorchJD's autojac.",
        )
    if not isinstance(weighting, Weighting):
        raise _refused(weighting, "Make one, such as UPGradWeighting().")
    inside: Any = weighting
    while isinstance(inside, Weighting):
        if getattr(inside, "fn", None) in _GRAMIANS:
            raise _refused(
                weighting,
                "It takes the matrix of the gradients, and makes the Gramian itself: pass the "
                "aggregator's `gramian_weighting` in place of its `weighting`.",
            )
        stat = _stat(inside)
        if stat is Matrix:
            raise _refused(
                weighting,
                f"{_name(inside)} takes a matrix that is not the Gramian. Take one that TorchJD "
                "documents as Weighting [PSDMatrix], such as UPGradWeighting; weights that do not "
                "depend on the gradients go to `record.backward` as they are.",
            )
        # A weighting around another takes what that one takes.
        inside = None if stat is not None else getattr(inside, "weighting", None)


def _refused(weighting: object, way_out: str) -> UsageError:
    return UsageError("weighting", "must be a TorchJD weighting of the Gramian", weighting, way_out)


def _stat(weighting: Weighting[Any]) -> Any:
    """The type that a weighting's class says it takes; None where it does not say."""
    for kind in type(weighting).__mro__:
        for base in vars(kind).get("__orig_bases__", ()):
            if get_origin(base) is Weighting:
                (found,) = get_args(base)
                return found if isinstance(found, type) else None
    return None


def _name(weighting: object) -> str:
    return type(weighting).__name__
