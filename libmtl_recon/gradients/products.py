"""Inner products of the tasks' gradients of a layer's weight, computed without these gradients.

With N the positions at which a layer is applied (batch times places), A ``[N, a]`` its inputs and
Δ_t ``[N, b]`` the gradients of task t's loss with respect to its outputs, the gradient of its
weight is Δ_tᵀ A. Hence ⟨Δ_sᵀ A, Δ_tᵀ A⟩ = ⟨Δ_s, (A Aᵀ) Δ_t⟩, in which no tensor is as large as the
weight. For a grouped convolution this holds for each group separately, for a transposed one with
the windows on the side of the outputs. For a layer that is called several times, the products of
each pair of calls are summed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from libmtl_recon.gradients.calls import Call
from libmtl_recon.gradients.gramian import exact_device, gramian
from libmtl_recon.gradients.operations import Kind, Operation

# The number of columns converted to float64 at a time.
_CHUNK = 1 << 14


class Deltas:
    """The gradients of some tasks' losses with respect to the output of one call of a layer.

    Args:
        call: The call.
        tasks: The places of the tasks.
        gradients: One gradient per task, in the output's shape.
        exact: Compute the products in float64.
    """

    def __init__(
        self, call: Call, tasks: Sequence[int], gradients: Sequence[Tensor], *, exact: bool
    ) -> None:
        self.call, self.tasks = call, list(tasks)
        self._dtype = torch.float64 if exact else product_dtype(call)
        self._stacked = torch.stack([one.detach() for one in gradients])

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return the call's inputs, and the gradients ``[tasks, ...]``."""
        return self.call.inputs, self._stacked

    def bias_rows(self) -> Tensor:
        """Return the tasks' gradients of the layer's bias, ``[tasks, b]``."""
        channels = self.call.operation.channels
        kept = {0, 1 + channels if channels >= 0 else self._stacked.ndim + channels}
        others = [axis for axis in range(self._stacked.ndim) if axis not in kept]
        wide = self._stacked.to(self._dtype)
        return wide.sum(dim=others) if others else wide

    def sides(self) -> tuple[Tensor, Tensor]:
        """Return the inputs ``[g, N, a]`` and the gradients ``[g, tasks, N, b]`` of the formula."""
        call, operation = self.call, self.call.operation
        # Under autocast an input is rounded before it is multiplied by the weight.
        inputs = call.inputs.to(call.dtype)
        if operation.kind is Kind.CONVOLUTION:
            if any(operation.padding):
                inputs = pad(inputs, operation.padding, mode=operation.padding_mode)
            found = _windows(inputs, operation), _positions(self._stacked, 2)
        elif operation.kind is Kind.TRANSPOSED:
            found = _positions(inputs, 1), _transposed_windows(self._stacked, operation, inputs)
        else:
            found = inputs.reshape(-1, inputs.shape[-1]), self._rows()
        left, right = (_grouped(side.to(self._dtype), operation.groups) for side in found)
        return left, right

    def embedding_rows(self) -> tuple[Tensor, Tensor]:
        """Return the indices ``[N]`` without padding, and their gradients ``[tasks, N, b]``."""
        operation = self.call.operation
        indices = self.call.inputs.flatten()
        gradients = self._rows().to(self._dtype)
        if operation.by_frequency:
            gradients = gradients / torch.bincount(indices)[indices][:, None]
        if operation.padding_index is not None:
            counts = indices != operation.padding_index
            indices, gradients = indices[counts], gradients[:, counts]
        return indices, gradients

    def _rows(self) -> Tensor:
        return self._stacked.reshape(len(self.tasks), -1, self._stacked.shape[-1])


def product_dtype(call: Call) -> torch.dtype:
    """Return the dtype of a call's products if they are not exact: at least float32."""
    return torch.promote_types(call.dtype, torch.float32)


class Products(NamedTuple):
    """The Gramian of T tasks' gradients of one weight.

    Attributes:
        gramian: ``[T, T]``, float64, symmetric (see
            :func:`~libmtl_recon.gradients.exact_device`).
        errors: ``[T]``, float64: the approximate rounding errors of its diagonal.
    """

    gramian: Tensor
    errors: Tensor


def weight_gramian(calls: Sequence[Deltas], tasks: int) -> Products:
    """Compute the Gramian of T tasks' gradients of the weight that these calls of one layer share.

    Args:
        calls: All calls that the losses reach.
        tasks: The number of tasks T.
    """
    if calls[0].call.operation.kind is Kind.EMBEDDING:
        found = _embedding_gramian(calls, tasks)
        return Products(found, torch.zeros_like(found[0]))
    # Calls that the same tasks reach are treated as one call with more positions.
    together: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
    for one in calls:
        together.setdefault(tuple(one.tasks), []).append(one.sides())
    sides = [(torch.tensor(own), *_joined(found)) for own, found in together.items()]
    device = exact_device(sides[0][1].device)
    total = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)
    errors = torch.zeros_like(total[0])
    for i, (here, inputs, own) in enumerate(sides):
        errors[here] += _rounding(inputs, own).to(device)
        for j, (there, others, deltas) in enumerate(sides[i:], i):
            kernel = inputs @ others.transpose(1, 2)  # [g, N, M]
            part = _contracted(own, kernel[:, None] @ deltas)
            total[here[:, None], there] += part
            if i != j:
                total[there[:, None], here] += part.T
    return Products((total + total.T) / 2, errors)


def _rounding(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Estimate the rounding errors of the squared lengths of the tasks' gradients.

    Each of the N² products of positions has a rounding error relative to its size, of either sign;
    together these amount to N of them. Where the products do not cancel, that is one rounding of
    the squared length.

    Args:
        inputs: ``[g, N, a]``.
        gradients: ``[g, tasks, N, b]``.
    """
    if inputs.dtype == torch.float64:
        return torch.zeros(gradients.shape[1], dtype=torch.float64, device=inputs.device)
    sizes = inputs.square().sum(dim=(1, 2))
    lengths = torch.linalg.vector_norm(gradients, dim=(2, 3)).square()
    found: Tensor = (sizes[:, None] * lengths).sum(dim=0).double()
    return found * (2 * torch.finfo(inputs.dtype).eps / inputs.shape[1])


def _joined(sides: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(sides) == 1:
        return sides[0]
    inputs, gradients = zip(*sides, strict=True)
    return torch.cat(inputs, dim=1), torch.cat(gradients, dim=2)


def bias_gramian(calls: Sequence[Deltas], tasks: int) -> Tensor:
    """Compute the Gramian of the bias that these calls share; ``[T, T]``, float64."""
    found = [one.bias_rows() for one in calls]
    device = exact_device(found[0].device)
    rows = torch.zeros(tasks, found[0].shape[1], dtype=torch.float64, device=device)
    for one, own in zip(calls, found, strict=True):
        rows[one.tasks] += own.to(device).double()
    return gramian(rows)


def _embedding_gramian(calls: Sequence[Deltas], tasks: int) -> Tensor:
    found = [one.embedding_rows() for one in calls]
    indices, places = torch.cat([own for own, _ in found]).unique(return_inverse=True)
    gradients = found[0][1]
    rows = gradients.new_zeros(tasks, len(indices), gradients.shape[-1])
    split = places.split([len(own) for own, _ in found])
    for one, (_, gradients), place in zip(calls, found, split, strict=True):
        for task, gradient in zip(one.tasks, gradients, strict=True):
            rows[task].index_add_(0, place, gradient)
    return gramian(rows.flatten(1))


def _contracted(left: Tensor, right: Tensor) -> Tensor:
    """Contract two ``[g, tasks, ...]`` over all but the tasks, in float64: ``[tasks, tasks']``."""
    left, right = (one.transpose(0, 1).flatten(1) for one in (left, right))
    device = exact_device(left.device)
    total = torch.zeros(len(left), len(right), dtype=torch.float64, device=device)
    for a, b in zip(left.split(_CHUNK, dim=1), right.split(_CHUNK, dim=1), strict=True):
        total.addmm_(a.to(device).double(), b.to(device).double().T)
    return total


def _positions(x: Tensor, channels: int) -> Tensor:
    """Reshape ``[..., batch, C, *places]``, with C at the given axis, to ``[..., N, C]``."""
    return x.movedim(channels, -1).flatten(channels - 1, -2)


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Reshape ``[..., C]`` to ``[g, ..., C / g]``."""
    return x[None] if groups == 1 else x.unflatten(-1, (groups, -1)).movedim(-2, 0)


def _windows(x: Tensor, operation: Operation, places: Sequence[int] = ()) -> Tensor:
    """Return a kernel's inputs at each position of ``[batch, C, *places]``: ``[N, C · kernel]``.

    Args:
        x: The padded input.
        operation: The convolution.
        places: The number of positions along each axis, if not as many as fit.
    """
    axes = len(operation.kernel)
    for axis, (size, stride, dilation) in enumerate(
        zip(operation.kernel, operation.stride, operation.dilation, strict=True), 2
    ):
        x = x.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
        if places:
            x = x.narrow(axis, 0, places[axis - 2])
    # [batch, C, *places, *kernel]
    return x.movedim(1, 1 + axes).flatten(1 + axes).flatten(0, axes)


def _transposed_windows(gradients: Tensor, operation: Operation, inputs: Tensor) -> Tensor:
    """Return the entries that a kernel wrote at each position: ``[tasks, N, C · kernel]``."""
    whole = pad(gradients.flatten(0, 1), operation.padding)
    windows = _windows(whole, operation, inputs.shape[2:])
    return windows.view(len(gradients), -1, windows.shape[1])
