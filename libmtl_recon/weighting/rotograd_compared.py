"""Compare the tasks' gradients row by row, and compute the gradients of the rotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.weighting.rotation import rotate, rows


@dataclass(frozen=True)
class Compared:
    """The gradients of P tasks, as rows of channels.

    Attributes:
        rotated: g̃ ``[N, C]`` each, with respect to the heads' inputs. N = 1 if summed.
        plain: g = Rᵀ g̃ ``[N, C]`` each, with respect to the representation.
        samples: The size of the batch; 1 if summed.
        ranks: The ranks among which the rows are divided; None if these are all rows.
    """

    rotated: list[Tensor]
    plain: list[Tensor]
    samples: int
    ranks: Ranks | None = None

    def mean_norm(self, weights: Sequence[float]) -> Tensor:
        """Return ‖mean wₖ gₖ‖, a scalar.

        Args:
            weights: wₖ, P of them.
        """
        mean = torch.zeros_like(self.plain[0])
        for gradient, weight in zip(self.plain, weights, strict=True):
            mean.add_(gradient, alpha=weight / len(weights))
        return norms_of([mean], self.ranks)[0]

    def norms(self) -> list[Tensor]:
        """Return ‖gₖ‖, P scalars."""
        return norms_of(self.plain, self.ranks)

    def target(self, size: int, rates: Sequence[float]) -> Tensor:
        """Return the directions vₙ with which the rotations align all gradients (section 4.2).

        Args:
            size: The number of rotated channels m.
            rates: rₖ, the weight of each task, P numbers; 1 in the paper.

        Returns:
            ``[N, m]``: the mean of rₖ gₖ/‖gₖ‖.
        """
        target = torch.zeros_like(self.plain[0][:, :size])
        for gradient, norm, rate in zip(self.plain, self.norms(), rates, strict=True):
            # A sum over rows may be zero even if the rows are not.
            factor = torch.where(norm > 0, rate / len(rates) / norm, torch.zeros_like(norm))
            target += gradient[:, :size] * factor
        return target

    def pulls(self, target: Tensor) -> list[Tensor]:
        """Return the P gradients ``[m, m]`` of -Σₙ ⟨Rₖᵀ g̃ₙₖ, vₙ⟩ with respect to Rₖ.

        Args:
            target: vₙ ``[N, m]``.
        """
        size = target.shape[1]
        found = [-(gradient[:, :size].T @ target) for gradient in self.rotated]
        return found if self.ranks is None else added_up(found, self.ranks)


def norms_of(
    gradients: Sequence[Tensor], ranks: Ranks | None, dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Return the Euclidean norms of gradients, whose rows may be divided among ranks.

    Args:
        gradients: The gradients, of any shapes.
        ranks: The ranks, if there are several.
        dtype: The dtype of the computation; None: that of the gradients.
    """
    norms = [torch.linalg.vector_norm(gradient, dtype=dtype) for gradient in gradients]
    if ranks is None:
        return norms
    return [square.sqrt() for square in added_up([norm.square() for norm in norms], ranks)]


def added_up(tensors: Sequence[Tensor], ranks: Ranks) -> list[Tensor]:
    """Return the sums over the ranks of tensors of one dtype, sent in one message."""
    together = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with ranks.sending("representations"):
        sums = ranks.add_up(together).split([tensor.numel() for tensor in tensors])
    return [total.view(tensor.shape) for total, tensor in zip(sums, tensors, strict=True)]


def compare(
    gradients: Sequence[Tensor],
    matrices: Sequence[Tensor | None],
    *,
    same_rows: bool,
    ranks: Ranks | None = None,
    samples: int | None = None,
) -> Compared:
    """Prepare the gradients of P tasks for comparison.

    Args:
        gradients: g̃, in the representations' shapes.
        matrices: R ``[m, m]`` each; None for the identity.
        same_rows: Whether their n-th rows belong to the same sample. If not, or if the shapes
            differ, they are summed.
        ranks: The ranks among which the rows are divided, if there are several.
        samples: The number of samples, if it is not that of the gradients.
    """
    rotated = [rows(gradient) for gradient in gradients]
    together = same_rows and len({gradient.shape for gradient in gradients}) == 1
    if not together:
        rotated = [gradient.sum(0, keepdim=True) for gradient in rotated]
        if ranks is not None:
            rotated = added_up(rotated, ranks)
    plain = [
        gradient if matrix is None else rotate(gradient, matrix.to(gradient.dtype).T)
        for gradient, matrix in zip(rotated, matrices, strict=True)
    ]
    if not together:
        return Compared(rotated, plain, 1)
    return Compared(rotated, plain, len(gradients[0]) if samples is None else samples, ranks)
