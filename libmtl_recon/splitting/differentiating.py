"""Backward passes from the values of all tasks, and hooks on their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import local
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.hooks import RemovableHandle

from libmtl_recon.errors import ReconError

# Where a tensor comes from in the autograd graph, and where it lies in memory.
OF_ONE_TENSOR = frozenset({"grad_fn", "untyped_storage", "data_ptr"})
_PASSES = frozenset({Tensor.backward, torch.autograd.backward, torch.autograd.grad})


class _Inside(local):
    """How many blocks of :func:`~libmtl_recon.splitting.per_task_calls` this thread is in."""

    depth = 0


inside = _Inside()


def is_backward(func: Callable[..., Any]) -> bool:
    """Whether a torch function is a backward pass."""
    return func in _PASSES


def keep_graph_until_last(func: Callable[..., Any], passes: int) -> Callable[..., Any]:
    """A backward pass to be called once per task, by keyword but for the tensors.

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


def of_one_tensor(name: str) -> ReconError:
    """The error for code that asks for what there is of each task's tensor and none for all."""
    return ReconError(
        f"What a split network returns has one {name} for each task and none for all, so that code "
        "which goes by it (DistributedDataParallel with find_unused_parameters or static_graph, "
        "torch.export) cannot take it. Give it one tensor per task: wrap the split network in a "
        "module whose forward returns libmtl_recon.by_task(split(x)). TorchJD's Engine takes the "
        "modules that stand before the first split alone; for others use torchjd.autojac."
    )


def refuse_traced_duals() -> None:
    """Refuse forward-mode derivatives that are being traced, as by ``torch.func.linearize``.

    The tracer takes what differs between tasks for a constant, without a word.

    Raises:
        ReconError: A trace is being made.
    """
    if get_proxy_mode() is not None:
        raise ReconError(
            "torch.func.linearize cannot trace a tensor that differs between tasks. Call it with "
            "each of `.by_task()`, or use torch.func.jvp."
        )


def refuse_transform_around() -> None:
    """Refuse a transform of ``torch.func`` that would get task tensors to unwrap.

    Raises:
        ReconError: One is at work, and this thread is in no block of
            :func:`~libmtl_recon.splitting.per_task_calls`.
    """
    if torch._C._are_functorch_transforms_active() and not inside.depth:
        raise ReconError(
            "A transform of torch.func (vmap, grad, jvp, ...) around a split network, or over what "
            "it returned, must stand inside of `with libmtl_recon.splitting.per_task_calls():`. "
            "Or transform each of `.by_task()`, or each network that extract_task takes out."
        )


class HandleOfAll(RemovableHandle):
    """Removes a hook from the tensors of all tasks.

    Args:
        handles: One per task.
    """

    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self._handles = tuple(handles)

    def remove(self) -> None:
        """Remove it from each."""
        for handle in self._handles:
            handle.remove()
