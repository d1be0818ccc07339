"""Custom autograd functions (``torch.autograd.Function``), which torch functions do not reach."""

from __future__ import annotations

from threading import local
from typing import Any

from torch.autograd import Function

from libmtl_recon.splitting.task_tensor import cut_off, per_task, task_tensors_in

_MARK = "_once_a_task"


class _Depth(local):
    """How many functions this thread is inside of that run once a task."""

    value = 0


_depth = _Depth()


def inside_once_a_task() -> bool:
    """Whether what runs now is called once a task by a custom function, on plain tensors."""
    return _depth.value > 0


def run_functions_once_a_task() -> None:
    """Have ``Function.apply`` run once a task where it meets a bundle; nothing else changes.

    ``apply`` is no torch function: without this, a gradient reversal or a memory-saving activation
    would compute a task's values without their gradients. It is set once in a process, when the
    first network is split.
    """
    if hasattr(Function, _MARK):
        return
    original = next(vars(parent)["apply"] for parent in Function.__mro__ if "apply" in vars(parent))

    def apply(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        bound = original.__get__(None, cls)
        if not task_tensors_in((args, kwargs)):
            return bound(*args, **kwargs)

        def once(*args: Any, **kwargs: Any) -> Any:
            _depth.value += 1
            try:
                result = bound(*args, **kwargs)
            finally:
                _depth.value -= 1
            if task_tensors_in(result):  # there are split layers inside
                raise cut_off(cls.__name__)
            return result

        once.__name__ = f"{cls.__name__}.apply"  # for messages
        return per_task(once, args, kwargs)

    Function.apply = classmethod(apply)
    setattr(Function, _MARK, True)
