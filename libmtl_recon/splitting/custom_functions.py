"""Run custom autograd functions (``torch.autograd.Function``) once per task.

A custom function (a gradient reversal, for example) applied to a task tensor itself would compute
the tasks' values without their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any

from torch.autograd import Function

from libmtl_recon.splitting.task_tensor import cut_off, per_task, task_tensors_in


class _Depth(local):
    """The number of functions that run once per task and that this thread is inside of."""

    value = 0


_depth = _Depth()


def inside_custom_function() -> bool:
    """Return whether a custom function is being called once per task, on plain tensors."""
    return _depth.value > 0


def applying_per_task(original: Any) -> Callable[..., Any]:
    """Replace ``Function.apply``: run once per task if an argument is a task tensor.

    Args:
        original: The class method, as defined in its class.
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
