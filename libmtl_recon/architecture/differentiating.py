"""Backward passes from the values of all tasks, and hooks on their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from libmtl_recon.errors import ReconError

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


def refuse_graph_of_all(nodes: Iterable[Any]) -> None:
    """Refuse to say which node of the autograd graph the values of all tasks come from.

    Args:
        nodes: One a task; nothing is refused if there is none in any task.

    Raises:
        ReconError: There are as many as tasks, and no one stands for all.
    """
    if any(node is not None for node in nodes):
        raise ReconError(
            "What a split network returns has a gradient function (grad_fn) for each task and none "
            "for all, so that code which goes through the autograd graph (DistributedDataParallel "
            "with find_unused_parameters or static_graph, for one) cannot take it. Give it one "
            "tensor a task: wrap the split network in a module whose forward returns "
            "libmtl_recon.by_task(split(x))."
        )


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
