"""Packing of tensors into one message between ranks, and unpacking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Each tensor of a message begins at a multiple of this many bytes, so that any dtype can be read.
_ALIGNED = 16


def real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as a real one with a last axis of 2; a copy if lazily conjugated."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def read_header(numbers: Sequence[int]) -> tuple[int, list[torch.Size]]:
    """Read the code of the dtypes, and the shapes, from a header.

    Args:
        numbers: The number of tensors, the code, each tensor's number of axes, all sizes in the
            order of the axes, and anything after these.
    """
    count, dtypes, *rest = numbers
    axes, rest = rest[:count], rest[count:]
    shapes = []
    for number in axes:
        shapes.append(torch.Size(rest[:number]))
        rest = rest[number:]
    return dtypes, shapes


def room(shape: torch.Size, dtype: torch.dtype) -> int:
    """Return the number of bytes that a tensor takes in a message."""
    return -(-shape.numel() * dtype.itemsize // _ALIGNED) * _ALIGNED


def pack(memory: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write tensors of any dtypes into a tensor of bytes, one after the other."""
    at = 0
    for tensor in tensors:
        if tensor.numel():
            flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
            if flat.stride(0) != 1:  # a single number, which counts as contiguous
                flat = flat.clone(memory_format=torch.contiguous_format)
            content = flat.view(torch.uint8)
            memory[at : at + content.numel()] = content
        at += room(tensor.shape, tensor.dtype)


def unpack(
    memory: Tensor, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]
) -> list[Tensor]:
    """Return the tensors that :func:`pack` wrote, with these shapes and dtypes, as views."""
    found, at = [], 0
    for shape, dtype in zip(shapes, dtypes, strict=True):
        size = shape.numel() * dtype.itemsize
        found.append(memory[at : at + size].view(dtype).view(shape))
        at += room(shape, dtype)
    return found
