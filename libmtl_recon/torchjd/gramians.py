"""TorchJD's weightings, applied to Gramians that were computed without a Jacobian."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import torch
from torch import Tensor
from torchjd.aggregation import Aggregator, GramianWeightedAggregator, MGDAWeighting, Weighting
from torchjd.linalg import Matrix, PSDMatrix

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.torchjd.exact import exact_gramian
from libmtl_recon.weighting.checked_gramian import check_gramian

# The function that TorchJD's aggregators apply before a weighting of the Gramian.
_THEIRS = GramianWeightedAggregator(MGDAWeighting()).weighting
_GRAMIANS = (exact_gramian, getattr(_THEIRS, "fn", None))


@torch.no_grad()
def gramian_weights(weighting: Weighting[PSDMatrix], gramian: Tensor) -> Tensor:
    """Return the weights of a TorchJD weighting for T losses, from their gradients' Gramian.

    They are those of TorchJD's aggregator of that name for the matrix of the gradients. The matrix
    is not needed: the update is one backward pass.

    Args:
        weighting: A ``Weighting[PSDMatrix]`` of TorchJD, such as ``UPGradWeighting()``. Create one
            with a state (``GradVacWeighting``, ``PCDWeighting``, ``CRMOGMWeighting``) once, before
            the loop, so that it keeps its state. A preference vector must be float64 as well
            (``AlignedMTLWeighting`` needs that).
        gramian: ``[T, T]``, the Gramian of the gradients, such as the result of
            :meth:`libmtl_recon.gradients.Record.gramian`, in float64.

    Returns:
        ``[T]``, float64, on the Gramian's device (on the CPU if that has no float64).

    Raises:
        UsageError: The weighting is not one of TorchJD, or needs the matrix of the gradients; or
            the Gramian is not a symmetric matrix of finite numbers.
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
            f"{_name(weighting)} returned {shape} for the Gramian of {len(matrix)} tasks, but must "
            "return one weight per task. If it keeps a state, call its reset()."
        )
    if not bool(found.isfinite().all()):
        raise ReconError(
            f"{_name(weighting)} returned weights that are not finite. Look for tasks whose "
            "gradients are zero, or nearly the same, in the Gramian."
        )
    return found.to(matrix)


def _check_weighting(weighting: Any) -> None:
    if isinstance(weighting, GramianWeightedAggregator):
        inner = _name(weighting.gramian_weighting)
        raise _refused(weighting, f"Pass the aggregator's `gramian_weighting`, which is a {inner}.")
    if isinstance(weighting, Aggregator):
        raise _refused(
            weighting,
            "TorchJD has no weighting of the Gramian for it: use another one, such as "
            "UPGradWeighting, or use TorchJD's autojac.",
        )
    if not isinstance(weighting, Weighting):
        raise _refused(weighting, "Create one, such as UPGradWeighting().")
    inside: Any = weighting
    while isinstance(inside, Weighting):
        if getattr(inside, "fn", None) in _GRAMIANS:
            raise _refused(
                weighting,
                "It takes the matrix of the gradients, and computes the Gramian itself: pass the "
                "aggregator's `gramian_weighting` instead of its `weighting`.",
            )
        stat = _stat(inside)
        if stat is Matrix:
            raise _refused(
                weighting,
                f"{_name(inside)} takes a matrix that is not the Gramian. Use one that TorchJD "
                "documents as Weighting [PSDMatrix], such as UPGradWeighting; pass weights that do "
                "not depend on the gradients to `record.backward` directly.",
            )
        # A wrapper of a weighting needs the same input as the inner one.
        inside = None if stat is not None else getattr(inside, "weighting", None)


def _refused(weighting: object, way_out: str) -> UsageError:
    return UsageError("weighting", "must be a TorchJD weighting of the Gramian", weighting, way_out)


def _stat(weighting: Weighting[Any]) -> Any:
    """Return the declared input type of a weighting's class; None if there is none."""
    for kind in type(weighting).__mro__:
        for base in vars(kind).get("__orig_bases__", ()):
            if get_origin(base) is Weighting:
                (found,) = get_args(base)
                return found if isinstance(found, type) else None
    return None


def _name(weighting: object) -> str:
    return type(weighting).__name__
