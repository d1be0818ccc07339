"""Backward passes from the values of all tasks, and hooks on their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

_PASSES = frozenset({Tensor.backward, torch.autograd.backward, torch.autograd.grad})


def is_backward(func: Callable[..., Any]) -> bool:
    """Whether a torch function is a backward pass."""
    return func in _PASSES


def keep_graph_until_last(func: Callable[..., Any], passes: int) -> Callable[..., Any]:
    """A backward pass to be called once a task, by keyword but for the tensors.

    What the tasks share stays until the last of them has gone through it; the caller says
    whether it stays longer.

    Args:
        func: One for which :func:`is_backward` holds.
        passes: How often it is called.
    """
    keep: Iterator[dict[str, bool]] = iter([*[{"retain_graph": True}] * (passes - 1), {}])

    def run(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs | next(keep))

    run.__name__ = func.__name__
    return run


class HandleOfAll(RemovableHandle):
    """Removes a hook from the tensors of all tasks.

    Args:
        handles: One a task.
    """

    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self._handles = tuple(handles)

    def remove(self) -> None:
        """Remove it from each."""
        for handle in self._handles:
            handle.remove()
