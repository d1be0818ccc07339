"""Handle in-place writes of a task's values into tensors that all tasks share.

A tensor that such a function writes to becomes a task tensor in all places that refer to it: the
object stays the same, and has T tensors from then on. A write is refused if the old values could
still be read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import local
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.pytree import leaves

_OPERATORS = {f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")}

# Functions that update running statistics without a trace in the tensor's version, and the
# argument that makes them.
_STATISTICS: dict[Callable[..., Any], str] = {
    functional.batch_norm: "training",
    functional.instance_norm: "use_input_stats",
}


class _Running(local):
    """The networks whose code this thread runs, each with its inputs."""

    def __init__(self) -> None:
        self.calls: list[tuple[nn.Module, Any]] = []


_running = _Running()


@contextmanager
def running(network: nn.Module, given: Any) -> Iterator[None]:
    """Protect a network's parameters, buffers and inputs from writes inside the ``with`` block.

    Args:
        network: The network that runs in this block.
        given: The network's arguments.
    """
    _running.calls.append((network, given))
    try:
        yield
    finally:
        _running.calls.pop()


def writes(name: str) -> bool:
    """Return whether a torch function of this name writes into its first argument."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name == "__setitem__" or name in _OPERATORS


def refuse_kept(tensor: Tensor, name: str) -> None:
    """Refuse to write a task's values into a tensor that outlives the call.

    Args:
        tensor: The tensor that all tasks share.
        name: The name of the function.

    Raises:
        ReconError: The tensor is a parameter or buffer of a running network, or its input.
    """
    kept = tensor.is_leaf and tensor.requires_grad
    for network, given in _running.calls:
        kept = kept or any(tensor is one for one in (*network.buffers(), *leaves(given)))
    if kept or isinstance(tensor, nn.Parameter):
        raise into_shared(name)


def memory_of(tensor: Tensor, name: str) -> StorageWeakRef:
    """Return an object that tells whether a tensor's memory is still in use.

    Raises:
        ReconError: This is unknown: the tensor is sparse, or inside a ``torch.func`` transform.
    """
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError) as error:
        raise into_shared(name) from error


def swap(old: Tensor, new: Tensor, name: str) -> None:
    """Swap an old and a new tensor in all places that refer to them.

    Raises:
        ReconError: A view of the old tensor, or autograd, refers to it in C++.
    """
    named = dict(vars(old))
    try:
        torch.utils.swap_tensors(old, new)
    except RuntimeError as error:
        raise held_elsewhere(name) from error
    vars(old).update(named)  # attributes that somebody set are swapped, too


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """Return the number of writes into each tensor, to be compared later."""
    if torch.compiler.is_compiling():
        return []
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def refuse_shared_statistics(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse a norm that would mix the tasks in shared running statistics.

    Raises:
        ReconError: The statistics are plain tensors, and the call would update them.
    """
    if func not in _STATISTICS:
        return
    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    mean = given.arguments["running_mean"]
    if given.arguments[_STATISTICS[func]] and type(mean) in (Tensor, torch.nn.Parameter):
        raise into_shared(func.__name__)


def into_shared(name: str) -> ReconError:
    """Return the error for a write of one task's values into a tensor that all tasks read."""
    return ReconError(
        f"{name} would write values that differ between tasks into a tensor that all tasks share. "
        "Write it as a new tensor, such as `x = x + y` instead of `x += y` or `x.add_(y)`, or "
        "torch.where instead of assigning to an index; or leave the layer before it shared."
    )


def held_elsewhere(name: str) -> ReconError:
    """Return the error for such a write into memory that other tensors would read afterwards."""
    return ReconError(
        f"{name} would write values that differ between tasks into memory that all tasks share, "
        "and that is also used elsewhere, where the new values would be missing: by the tensor "
        "of which this is a view, by a view or a detached tensor made from it, or in the "
        "backward pass. Write it as a new tensor, such as `x = x + y` instead of `x += y`, or "
        "torch.where instead of assigning to an index; or leave the layer before it shared."
    )
