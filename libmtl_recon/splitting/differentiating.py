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
    """The number of blocks of :func:`~libmtl_recon.splitting.per_task_calls` entered."""

    depth = 0


inside = _Inside()


def is_backward(func: Callable[..., Any]) -> bool:
    """Return whether a torch function is a backward pass."""
    return func in _PASSES


def keep_graph_until_last(func: Callable[..., Any], passes: int) -> Callable[..., Any]:
    """Return a backward pass to call once per task, with keyword arguments except the tensors.

    The graph that the tasks share is kept until the last pass; ``retain_graph`` determines whether
    it is kept longer.

    Args:
        func: A function for which :func:`is_backward` is true.
        passes: The number of calls.
    """
    keep: Iterator[dict[str, bool]] = iter([*[{"retain_graph": True}] * (passes - 1), {}])

    def run(*args: Any, **kwargs: Any) -> Any:
        return func(*args, **kwargs | next(keep))

    run.__name__ = func.__name__
    return run


def of_one_tensor(name: str) -> ReconError:
    """Return the error for code that reads an attribute that only a task's tensor has."""
    return ReconError(
        f"The output of a split network has one {name} per task and none for all tasks, so code "
        "that uses it (ConflictProbe, step, DistributedDataParallel with find_unused_parameters "
        "or static_graph, torch.export) cannot handle the output. Give it one tensor per task: if "
        "the network returns one output per task, split it with per_task_output=True; otherwise "
        "wrap the split network in a module whose forward returns "
        "libmtl_recon.by_task(split(x)). TorchJD's "
        "Engine supports only the modules before the first split; for others use "
        "torchjd.autojac."
    )


def refuse_traced_duals() -> None:
    """Refuse tracing of forward-mode derivatives, as by ``torch.func.linearize``.

    The tracer would silently treat values that differ between tasks as constants.

    Raises:
        ReconError: Code is being traced.
    """
    if get_proxy_mode() is not None:
        raise ReconError(
            "torch.func.linearize cannot trace a tensor that differs between tasks. Call it "
            "with each value of `.by_task()`, or use torch.func.jvp."
        )


def refuse_transform_around() -> None:
    """Refuse a transform of ``torch.func`` that would have to unwrap task tensors.

    Raises:
        ReconError: A transform is active, and this thread is not in a block of
            :func:`~libmtl_recon.splitting.per_task_calls`.
    """
    if torch._C._are_functorch_transforms_active() and not inside.depth:
        raise ReconError(
            "A transform of torch.func (vmap, grad, jvp, ...) around a split network, or of its "
            "output, must be inside `with libmtl_recon.splitting.per_task_calls():`. "
            "Alternatively, transform each value of `.by_task()`, or each network from "
            "extract_task."
        )


class HandleOfAll(RemovableHandle):
    """The handle of a hook on the tensors of all tasks.

    Args:
        handles: One per task.
    """

    def __init__(self, handles: Sequence[RemovableHandle]) -> None:
        self._handles = tuple(handles)

    def remove(self) -> None:
        """Remove the hook from each tensor."""
        for handle in self._handles:
            handle.remove()
