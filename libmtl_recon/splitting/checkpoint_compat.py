"""What ``torch.utils.checkpoint`` computes again in a backward pass.

That runs after the ``with`` block that chose a task has ended, and on a GPU in another thread, so
the network would compute other tasks than it did: at best an error, at worst, where the first
task's values have the same shapes, another task's gradient.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch.utils.checkpoint

from libmtl_recon.splitting.task_selection import all_choices, choosing

_OURS = "_libmtl_recon_checkpoint"


def recompute_for_the_same_tasks() -> None:
    """Have ``torch.utils.checkpoint`` compute for the same tasks again; nothing else changes.

    It is set once in a process, when the first network is split, for all who imported the
    function before, too.
    """
    module = vars(torch.utils.checkpoint)
    if _OURS in module:
        return
    plain = inspect.unwrap(module["checkpoint"])
    original = FunctionType(
        plain.__code__, plain.__globals__, plain.__name__, plain.__defaults__, plain.__closure__
    )
    original.__kwdefaults__ = plain.__kwdefaults__

    def checkpoint(function: Callable[..., Any] | None, *args: Any, **kwargs: Any) -> Any:
        # Without a function it makes a decorator, which comes here again.
        return original(None if function is None else _as_now(function), *args, **kwargs)

    module[_OURS] = checkpoint
    vars(plain)["__signature__"] = inspect.signature(plain)
    plain.__code__ = _trampoline.__code__


def _as_now(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs with the tasks chosen that are chosen now."""
    chosen, begun = all_choices(), False

    @functools.wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal begun
        if not begun:  # what follows goes on from where this ends
            begun = True
            return function(*args, **kwargs)
        with choosing(chosen):
            return function(*args, **kwargs)

    return run


def _trampoline(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    # Runs with the globals of torch.utils.checkpoint and must have no free variables.
    return _libmtl_recon_checkpoint(function, *args, **kwargs)  # type: ignore[name-defined]  # noqa: F821
