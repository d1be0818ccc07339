"""Weightings that use nothing of the gradients but their inner products are shown an image.

LibMTL's MGDA, IMTL and GradNorm make up to five matrices as large as that of all gradients, only
to multiply them with each other. They are shown T vectors of T numbers instead, which have the
same inner products, and their weights are then taken of the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients import exact_device, gramian, isometric_rows
from libmtl_recon.weighting.combining import combine


class Image:
    """T vectors with the inner products of the gradients.

    Attributes:
        rows: ``[T, T]``, on the gradients' device.
    """

    def __init__(self, gradients: Tensor, matrix: Tensor, dtype: torch.dtype) -> None:
        self._gradients, self._matrix = gradients, matrix
        self.rows = isometric_rows(matrix).to(gradients.device, dtype)

    def combine(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Σ weights[i] gᵢ, ``[d]``.

        Args:
            weights: ``[T]``.
            rows: The image's, or these multiplied by a number each (MGDA's normalisation), by
                which the gradients are then multiplied, too.

        Raises:
            ReconError: The rows are neither.
        """
        if rows is not self.rows:
            factors, same = _factors(rows.double(), self.rows.double())
            if not same:
                raise ReconError(
                    "This weighting changes the gradients by more than a factor for each task, "
                    "which cannot be done on their inner products. Switch the mend "
                    "`fast-gradients` off: give LIBMTL_RECON_MENDS the names of all others, as "
                    "`libmtl-recon doctor` lists them."
                )
            weights = weights * factors
        return combine(weights.detach().double().cpu(), self._gradients, self._matrix)


def _factors(rows: Tensor, known: Tensor) -> tuple[Tensor, bool]:
    """What each known vector was multiplied by, and whether that is all that was done.

    Args:
        rows: ``[T, T]``, float64.
        known: ``[T, T]``, float64. A vector of zero stays what it is, by a factor of 1.
    """
    # In units of each vector's largest entry, whose squares leave no float64.
    sizes = known.abs().amax(dim=1)
    sizes = torch.where(sizes > 0, sizes, 1.0)[:, None]
    there, unit = rows / sizes, known / sizes
    squares = unit.square().sum(1)
    factors = torch.where(squares > 0, (there * unit).sum(1) / squares, 1.0)
    # What was divided by zero is NaN, or infinite, in the weights as well.
    broken = ~there.isfinite().all(dim=1)
    whole = torch.where(broken[:, None], 0.0, there - factors[:, None] * unit)
    allowed = 1e-3 * there.abs().amax(dim=1, keepdim=True) + 1e-300
    return torch.where(broken, torch.nan, factors), bool((whole.abs() <= allowed)[~broken].all())


@dataclass
class _Shown:
    own_dtype: bool
    image: Image | None = None


_shown: WeakKeyDictionary[Any, _Shown] = WeakKeyDictionary()


def image_of(model: Any) -> Image | None:
    """What the model's weighting was shown in this step; None if that were the gradients."""
    shown = _shown.get(model)
    return None if shown is None else shown.image


def by_inner_products(original: Callable[..., Any], *, own_dtype: bool) -> Callable[..., Any]:
    """A weighting's ``backward`` that is shown an image, unless ``rep_grad`` is on.

    Args:
        original: LibMTL's.
        own_dtype: It wants the gradients' dtype, not float64, since it mixes them with others.
    """

    def backward(self: Any, losses: Tensor, **kwargs: Any) -> Any:
        if self.rep_grad:
            return original(self, losses, **kwargs)
        _shown[self] = _Shown(own_dtype)
        try:
            return original(self, losses, **kwargs)
        finally:
            del _shown[self]

    return backward


def show_image(original: Callable[..., Any]) -> Callable[..., Any]:
    """``_get_grads`` that returns an image to a weighting that will not know the difference."""

    def _get_grads(self: Any, losses: Tensor, mode: str = "backward") -> Any:
        gradients, shown = original(self, losses, mode), _shown.get(self)
        if shown is None or exact_device(gradients.device) != gradients.device:
            return gradients
        matrix = gramian(gradients).cpu()
        if not bool(torch.isfinite(matrix).all()):
            return gradients
        dtype = gradients.dtype if shown.own_dtype else matrix.dtype
        shown.image = Image(gradients, matrix, dtype)
        return shown.image.rows

    return _get_grads
