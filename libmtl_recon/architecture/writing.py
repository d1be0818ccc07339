"""Writing into tensors that all tasks share: allowed where it can mean a copy, refused else."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from libmtl_recon.errors import ReconError

_BINARY_OP = dis.opmap["BINARY_OP"]
_IN_PLACE = {
    number
    for number, (name, _) in enumerate(vars(dis)["_nb_ops"])
    if name.startswith("NB_INPLACE_")
}
_OPERATORS = {f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")}

# Functions that update running statistics without a trace in the tensor's version, and the
# argument that makes them.
_STATISTICS: dict[Callable[..., Any], str] = {
    functional.batch_norm: "training",
    functional.instance_norm: "use_input_stats",
}


def writes(name: str) -> bool:
    """Whether a torch function of this name writes into its first argument."""
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name == "__setitem__" or name in _OPERATORS


def called_by_operator(frame: Any) -> bool:
    """Whether the frame is just executing an operator such as ``+=``."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return code[at] == _BINARY_OP and code[at + 1] in _IN_PLACE


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """A count of the writes into each tensor, to be compared later."""
    if torch.compiler.is_compiling():
        return []
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def refuse_shared_statistics(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Refuse a norm that would mix the tasks in running statistics that they share.

    Raises:
        ReconError: They are plain tensors, and it is called to update them.
    """
    if func not in _STATISTICS:
        return
    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    mean = given.arguments["running_mean"]
    if given.arguments[_STATISTICS[func]] and type(mean) in (Tensor, torch.nn.Parameter):
        raise into_shared(func.__name__)


def into_shared(name: str) -> ReconError:
    """The error for a write of one task's values where all tasks read."""
    return ReconError(
        f"{name} would write values that differ between tasks into a tensor that all tasks share. "
        "Write it as a new tensor, such as `x = x + y` instead of `x.add_(y)`, or torch.where "
        "instead of assigning to an index; or leave the layer before it shared."
    )


def through_view(name: str) -> ReconError:
    """The error for such a write by an operator, through a view."""
    return ReconError(
        f"{name} would write values that differ between tasks through a view of a tensor that all "
        "tasks share. Write `x = x + y` instead of `x += y`, or leave the layer before it shared."
    )
