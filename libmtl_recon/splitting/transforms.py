"""The transforms of ``torch.func`` (vmap, grad, jvp …) over activations that differ between tasks.

A transform wraps its inputs and unwraps its outputs by C++ functions that torch functions do not
reach. Between these, it calls torch functions, which run once a task as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch._functorch.eager_transforms
import torch._functorch.vmap

from libmtl_recon.splitting.task_tensor import per_task, task_tensors_in

_MARK = "_libmtl_recon_once_a_task"
_BORDERS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (torch._functorch.vmap, ("_add_batch_dim", "_remove_batch_dim")),
    (torch._functorch.eager_transforms, ("_wrap_for_grad", "_unwrap_for_grad")),
)


def transform_once_a_task() -> None:
    """Have the transforms wrap and unwrap each task's tensor; nothing else changes.

    It is set once in a process, when the first network is split.
    """
    for module, names in _BORDERS:
        if _MARK not in vars(module):
            for name in names:
                vars(module)[name] = _once_a_task(vars(module)[name])
            vars(module)[_MARK] = True


def _once_a_task(plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def run(*args: Any) -> Any:
        return per_task(plain, args, {}) if task_tensors_in(args) else plain(*args)

    return run
