"""Writing into tensors that all tasks share: allowed where it can mean a copy, refused else."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

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
    frame = _below_modes(frame)[0]
    code, at = frame.f_code.co_code, frame.f_lasti
    return code[at] == _BINARY_OP and code[at + 1] in _IN_PLACE


def has_other_names(args: tuple[Any, ...], frame: Any) -> bool:
    """Whether more than one variable, list or frame holds the first of an operator's arguments.

    Args:
        args: As ``__torch_function__`` got them.
        frame: That which executes the operator; it holds the argument, too.
    """
    return sys.getrefcount(args[0]) > _references_of_one_name(_below_modes(frame)[1])


def _below_modes(frame: Any) -> tuple[Any, int]:
    """The frame below those of modes (``torch.set_default_device`` sets one), and how many."""
    modes = 0
    while frame.f_code.co_name == "__torch_function__":
        frame, modes = frame.f_back, modes + 1
    return frame, modes


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """A count of the writes into each tensor, to be compared later."""
    if torch.compiler.is_compiling():
        return []
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


class _Probe:
    """Counts the references where a bundle's class does."""

    count = 0

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        first = args[0]
        cls.count = _references(args, None)
        return first


class _Passing(TorchFunctionMode):
    """Does nothing, as most modes do."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def _references(args: tuple[Any, ...], _: Any) -> int:
    return sys.getrefcount(args[0])


@functools.cache
def _references_of_one_name(modes: int) -> int:
    """How often a tensor in one variable is referred to, which depends on Python and on modes."""
    tensor: Any = torch.zeros(())
    with ExitStack() as stack:
        for _ in range(modes):
            stack.enter_context(_Passing())
        tensor += _Probe()
    return _Probe.count


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


def under_two_names(name: str) -> ReconError:
    """The error for such a write by an operator, into a tensor that others hold too."""
    return ReconError(
        f"{name} would write values that differ between tasks into a tensor that all tasks share, "
        "and that is held elsewhere too, where the new values would not arrive. Write `x = x + y` "
        "instead of `x += y`, or leave the layer before it shared."
    )


def through_view(name: str) -> ReconError:
    """The error for such a write by an operator, through a view."""
    return ReconError(
        f"{name} would write values that differ between tasks through a view of a tensor that all "
        "tasks share. Write `x = x + y` instead of `x += y`, or leave the layer before it shared."
    )
