"""How a message between ranks is put together of tensors, and taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Bytes at a multiple of which each tensor of a message begins, so that any dtype can be read there.
_ALIGNED = 16


def real(tensor: Tensor) -> Tensor:
    """A complex tensor as a real one with a last axis of 2; a copy if it is lazily conjugated."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def read_header(numbers: Sequence[int]) -> tuple[int, list[torch.Size]]:
    """A code of the dtypes, and the shapes, of numbers that tell of them.

    Args:
        numbers: How many tensors there are, the code, each tensor's number of axes, all sizes in
            the order of the axes, and anything.
    """
    count, dtypes, *rest = numbers
    axes, rest = rest[:count], rest[count:]
    shapes = []
    for number in axes:
        shapes.append(torch.Size(rest[:number]))
        rest = rest[number:]
    return dtypes, shapes


def room(shape: torch.Size, dtype: torch.dtype) -> int:
    """How many bytes a tensor takes in a message."""
    return -(-shape.numel() * dtype.itemsize // _ALIGNED) * _ALIGNED


def pack(memory: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write tensors of any dtypes into bytes, one after the other."""
    at = 0
    for tensor in tensors:
        if tensor.numel():
            flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
            if flat.stride(0) != 1:  # of one number, which counts as contiguous
                flat = flat.clone(memory_format=torch.contiguous_format)
            content = flat.view(torch.uint8)
            memory[at : at + content.numel()] = content
        at += room(tensor.shape, tensor.dtype)


def unpack(
    memory: Tensor, shapes: Sequence[torch.Size], dtypes: Sequence[torch.dtype]
) -> list[Tensor]:
    """The tensors that :func:`pack` wrote, of these shapes and dtypes; views of the bytes."""
    found, at = [], 0
    for shape, dtype in zip(shapes, dtypes, strict=True):
        size = shape.numel() * dtype.itemsize
        found.append(memory[at : at + size].view(dtype).view(shape))
        at += room(shape, dtype)
    return found
