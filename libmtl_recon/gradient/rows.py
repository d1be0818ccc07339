"""Per-task gradients of the shared parameters, in a matrix that is used again in every step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from libmtl_recon.gradient.split_losses import Root


class TaskRows:
    """Fills matrices ``[T, d]`` with gradients, and hands a combination of their rows out again.

    Attributes:
        reached: For each shared parameter, whether any task's gradient reached it last time.
    """

    def __init__(self) -> None:
        self.reached: tuple[bool, ...] = ()
        self._matrices: list[_Matrix] = []
        self._taken = 0

    def begin(self) -> None:
        """Start a step: from now on the matrices of the last one are written again."""
        self._taken = 0

    def fill(
        self,
        roots: Sequence[Root],
        shared: Sequence[Tensor],
        *,
        accumulate: bool,
        retain_graph: bool = False,
    ) -> Tensor:
        """The gradient of each root with respect to the shared parameters.

        Args:
            roots: T of them. An empty one has a gradient of zero.
            shared: The shared parameters; frozen and unreached ones have columns of zeros. Their
                ``.grad`` is None afterwards if ``accumulate``.
            accumulate: Add the gradients of all other leaves to their ``.grad``.
            retain_graph: Keep the graph after the last root.

        Returns:
            ``[T, d]`` in the parameters' (widest) dtype, on their device; columns are the shared
            parameters flattened in order. Written again after the next :meth:`begin`.
        """
        matrix = self._take(len(roots), shared)
        trainable = [p for p in shared if p.requires_grad]
        reached = [False] * len(trainable)
        last = max((i for i, (tensors, _) in enumerate(roots) if tensors), default=-1)
        for index, (tensors, factors) in enumerate(roots):
            keep = retain_graph or index != last
            gradients: Sequence[Tensor | None] = [None] * len(trainable)
            if tensors and accumulate:
                # Without one, autograd hands over what it computed instead of adding it up.
                for parameter in trainable:
                    parameter.grad = None
                torch.autograd.backward(tensors, factors, retain_graph=keep)
                gradients = [parameter.grad for parameter in trainable]
            elif tensors:
                gradients = torch.autograd.grad(
                    tensors, trainable, factors, retain_graph=keep, allow_unused=True
                )
            reached = [r or g is not None for r, g in zip(reached, gradients, strict=True)]
            matrix.write(index, gradients)
        if accumulate:
            for parameter in trainable:
                parameter.grad = None
        remaining = iter(reached)
        self.reached = tuple(p.requires_grad and next(remaining) for p in shared)
        return matrix.whole

    def scatter(self, vector: Tensor, shared: Sequence[Tensor]) -> None:
        """Hand a gradient ``[d]`` out to the shared parameters' ``.grad``.

        A parameter that is frozen, or that no task reached, gets none, so that weight decay does
        not move it. The ``.grad`` are views of ``vector``.
        """
        parts = vector.split([p.numel() for p in shared])
        reached = self.reached or tuple(p.requires_grad for p in shared)
        for parameter, part, hit in zip(shared, parts, reached, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype) if hit else None

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in one of the matrices, and will be written over."""
        storage = tensor.untyped_storage().data_ptr()
        return any(m.whole.untyped_storage().data_ptr() == storage for m in self._matrices)

    def _take(self, tasks: int, shared: Sequence[Tensor]) -> _Matrix:
        # A weighting may hold several at once (MoDo and SDMGrad compare three batches).
        at, self._taken = self._taken, self._taken + 1
        if at == len(self._matrices):
            self._matrices.append(_Matrix(tasks, shared))
        elif not self._matrices[at].fits(tasks, shared):
            self._matrices[at] = _Matrix(tasks, shared)
        return self._matrices[at]


class _Matrix:
    """One matrix, and the places of the trainable parameters in its rows."""

    def __init__(self, tasks: int, shared: Sequence[Tensor]) -> None:
        self._layout = _layout(shared)
        dtype = reduce(torch.promote_types, (p.dtype for p in shared))
        widths = [p.numel() for p in shared]
        # Zeros, because the columns of frozen parameters are never written.
        self._memory = torch.zeros(tasks, sum(widths), dtype=dtype, device=shared[0].device)
        self.whole = self._memory
        self._places = [
            [
                part.view_as(p)
                for p, part in zip(shared, row.split(widths), strict=True)
                if p.requires_grad
            ]
            for row in self._memory
        ]

    def fits(self, tasks: int, shared: Sequence[Tensor]) -> bool:
        """Whether it can serve; tells fewer tasks from now on."""
        if len(self._memory) < tasks or self._layout != _layout(shared):
            return False
        self.whole = self._memory[:tasks]
        return True

    def write(self, row: int, gradients: Sequence[Tensor | None]) -> None:
        places = self._places[row]
        full = [(p, g) for p, g in zip(places, gradients, strict=True) if g is not None]
        if full:
            torch._foreach_copy_([p for p, _ in full], [g for _, g in full])
        for place, gradient in zip(places, gradients, strict=True):
            if gradient is None:
                place.zero_()


def _layout(shared: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype, torch.device, bool]]:
    return [(p.shape, p.dtype, p.device, p.requires_grad) for p in shared]
