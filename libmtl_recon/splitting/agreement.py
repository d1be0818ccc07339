"""Compare the tasks' results: if they are the same, they do not differ between tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def agree(first: Any, value: Any) -> bool:
    """Return whether two results that are not tensors are the same."""
    if value is first:
        return True
    if type(value) is not type(first):
        return False
    same = value == first
    # Both not a number counts as agreement. What compares element by element never agrees.
    return same is True or (isinstance(first, float) and first != first and value != value)


def is_one(values: Sequence[Tensor], parts: Sequence[Tensor]) -> bool:
    """Return whether all tasks got the same tensor, or the same view of it.

    Args:
        values: One result per task.
        parts: The tasks' own tensors from which they were computed.
    """
    first = values[0]
    if all(value is first for value in values):
        return True
    base = first._base
    if base is None or any(value._base is not base for value in values):
        return False
    if any(part is base or part._base is base for part in parts):
        return False
    return all(_place(value) == _place(first) for value in values)


def _place(view: Tensor) -> tuple[Any, ...]:
    # A custom autograd function may return a view of its input that has another gradient.
    node = view.grad_fn
    custom = id(node) if isinstance(node, torch.autograd.function.BackwardCFunction) else None
    return view.storage_offset(), view.shape, view.stride(), view.dtype, custom
