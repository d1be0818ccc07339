"""The losses of a step, cut off from their graphs: a vector to weight, and one scalar per task.

A weighting may compute anything from the vector. The result is first differentiated with respect
to the vector, T numbers with a tiny graph; only then are the tasks' own scalars differentiated,
each of which does not depend on the other tasks' decoders.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from libmtl_recon.gradients.rows import Root


class SplitLosses:
    """One batch's losses.

    Args:
        scalars: T scalar losses with their graphs.
        dtype: The vector's dtype.

    Attributes:
        scalars: As given.
        vector: ``[T]``, the scalars' values; a leaf that requires a gradient.
    """

    def __init__(self, scalars: Sequence[Tensor], dtype: torch.dtype | None = None) -> None:
        self.scalars = tuple(scalars)
        dtype = dtype or self.scalars[0].dtype
        values = torch.stack([scalar.detach().to(dtype) for scalar in self.scalars])
        self.vector = values.requires_grad_()

    def roots(self, factors: Tensor | None = None) -> list[Root]:
        """Return what to differentiate for each task's own loss.

        Args:
            factors: ``[T]``, by which each loss is multiplied; None: 1.
        """
        if factors is None:
            return [([scalar] if scalar.requires_grad else [], None) for scalar in self.scalars]
        return [
            ([scalar], [factor.to(scalar.dtype)]) if scalar.requires_grad else ([], None)
            for scalar, factor in zip(self.scalars, factors, strict=True)
        ]

    def take_gradient(self) -> Tensor | None:
        """Return the gradient ``[T]`` of the vector, if any, and remove it."""
        gradient, self.vector.grad = self.vector.grad, None
        return gradient

    def back_propagate(self, gradient: Tensor) -> None:
        """Continue into the scalars with the vector's gradient ``[T]``."""
        reached = [root for root in self.roots(gradient) if root[0]]
        if reached:
            torch.autograd.backward(
                [scalars[0] for scalars, _ in reached],
                [factors[0] for _, factors in reached if factors],
            )


def jacobian_of(losses: Tensor, batches: Sequence[SplitLosses], *, accumulate: bool) -> Tensor:
    """Compute the Jacobian of losses that were computed from the vectors.

    Args:
        losses: ``[T]``, whose graph ends in the batches' vectors and in other leaves.
        batches: The B batches.
        accumulate: Add the other leaves' gradients (a weighting's own parameters) to their
            ``.grad``, as ``losses[t].backward()`` would.

    Returns:
        ``[T, B T]``, in the losses' dtype.
    """
    vectors = [batch.vector for batch in batches]
    jacobian = losses.new_zeros(len(losses), len(vectors), len(vectors[0]))
    for row, loss in zip(jacobian, losses, strict=True):
        if not loss.requires_grad:
            continue
        if accumulate:
            torch.autograd.backward(loss, retain_graph=True)
            gradients: Sequence[Tensor | None] = [vector.grad for vector in vectors]
            for vector in vectors:
                vector.grad = None
        else:
            gradients = torch.autograd.grad(loss, vectors, retain_graph=True, allow_unused=True)
        for part, gradient in zip(row, gradients, strict=True):
            if gradient is not None:
                part.copy_(gradient)
    return jacobian.flatten(1)


def derived_roots(
    losses: Tensor, batches: Sequence[SplitLosses], *, accumulate: bool
) -> list[Root]:
    """Return what to differentiate for losses that were computed from the vectors.

    Args:
        losses: See :func:`jacobian_of`.
        batches: See :func:`jacobian_of`.
        accumulate: See :func:`jacobian_of`.
    """
    jacobian = jacobian_of(losses, batches, accumulate=accumulate)
    scalars = [scalar for batch in batches for scalar in batch.scalars]
    roots: list[Root] = []
    # Inspects T x T numbers once, so that a task's loss is differentiated for itself alone.
    for factors, known in zip(jacobian, jacobian.tolist(), strict=True):
        used = [i for i, factor in enumerate(known) if factor != 0 and scalars[i].requires_grad]
        roots.append(([scalars[i] for i in used], [factors[i].to(scalars[i].dtype) for i in used]))
    return roots
