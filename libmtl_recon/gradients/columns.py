"""The columns of each parameter's gradient in a row of real numbers.

A complex parameter takes two columns for each of its numbers, in the layout of
:func:`torch.view_as_real`: the inner product of two rows is then that of the real parameters, which
is what an optimiser's step uses. A sparse gradient, such as that of ``nn.Embedding(sparse=True)``,
takes as many columns as a dense one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError


def check_shared(shared: Sequence[Tensor]) -> None:
    """Check that there are shared parameters, whose dtype and device the rows have.

    Raises:
        UsageError: There are none.
    """
    if not shared:
        raise UsageError(
            "shared",
            "must be the parameters that the tasks share, at least one",
            list(shared),
            "Pass e.g. list(encoder.parameters()).",
        )


def split(vector: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return each parameter's columns of a row ``[d]``.

    Raises:
        UsageError: The row has another length.
    """
    expected = widths(parameters)
    if vector.shape != (sum(expected),):
        raise UsageError(
            "vector",
            f"must have the shape [{sum(expected)}], one number per element of the shared "
            "parameters (two per complex element)",
            list(vector.shape),
            "Pass a combination of the rows of task_gradients, with the same parameters.",
        )
    parts: tuple[Tensor, ...] = vector.split(expected)
    return parts


def width(parameter: Tensor) -> int:
    """Return the number of columns of a parameter."""
    return parameter.numel() * (2 if parameter.is_complex() else 1)


def widths(parameters: Sequence[Tensor]) -> list[int]:
    """Return the number of columns of each parameter."""
    return [width(parameter) for parameter in parameters]


def row_dtype(parameters: Sequence[Tensor]) -> torch.dtype:
    """Return the widest of the parameters' real dtypes."""
    return reduce(torch.promote_types, (p.dtype.to_real() for p in parameters))


def real_rows(rows: Tensor) -> Tensor:
    """Return rows ``[T, d]``; complex ones as real rows ``[T, 2d]``."""
    if not rows.is_complex():
        return rows
    return torch.view_as_real(rows.resolve_conj()).flatten(1)


def part_of(columns: Tensor, parameter: Tensor) -> Tensor:
    """Return a parameter's columns ``[w]`` in its shape; with a last axis of 2 if it is complex."""
    return (
        columns.view(*parameter.shape, 2)
        if parameter.is_complex()
        else columns.view(parameter.shape)
    )


def parts_of(row: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return each parameter's part of a row ``[d]``; see :func:`part_of`."""
    each = zip(parameters, row.split(widths(parameters)), strict=True)
    return [part_of(columns, parameter) for parameter, columns in each]


def write(part: Tensor, gradient: Tensor) -> None:
    """Write a parameter's gradient, of any dtype and layout, into its part of a row."""
    if gradient.is_complex():
        whole = gradient.to_dense() if gradient.is_sparse else gradient
        part.copy_(torch.view_as_real(whole.resolve_conj()))
    elif gradient.is_sparse:
        part.zero_().add_(gradient.to(part.device, part.dtype))
    else:
        part.copy_(gradient)


def flat(gradient: Tensor) -> Tensor:
    """Return a gradient, of any layout, as its parameter's columns ``[w]``; a view if possible."""
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    real = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
    return real.reshape(-1)


def gradient_of(part: Tensor, parameter: Tensor) -> Tensor:
    """Return what :func:`write` wrote, as a parameter's dense gradient; a view if possible."""
    real = part.to(device=parameter.device, dtype=parameter.dtype.to_real())
    if not parameter.is_complex():
        return real
    # After real parameters it may begin at an odd column, where torch allows no complex view.
    return torch.view_as_complex(real.clone() if real.storage_offset() % 2 else real)
