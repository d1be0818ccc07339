"""Custom autograd functions (``torch.autograd.Function``), which are no torch functions.

A gradient reversal or a memory-saving activation that met a task tensor would compute a task's
values without their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any

from torch.autograd import Function

from libmtl_recon.splitting.task_tensor import cut_off, per_task, task_tensors_in


class _Depth(local):
    """How many functions this thread is inside of that run once per task."""

    value = 0


_depth = _Depth()


def inside_custom_function() -> bool:
    """Whether what runs now is called once per task by a custom function, on plain tensors."""
    return _depth.value > 0


def applying_per_task(original: Any) -> Callable[..., Any]:
    """``Function.apply``, which runs once per task where it meets a task tensor.

    Args:
        original: The class method as it stands in its class.
    """

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

    return apply
