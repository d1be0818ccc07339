"""Support transforms of ``torch.func`` (vmap, grad, jvp …) of values that differ between tasks.

A transform wraps its inputs and unwraps its outputs with C++ functions that are not torch
functions. In between, it calls torch functions, which run once per task as usual.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch._functorch.eager_transforms
import torch._functorch.vmap

from libmtl_recon.splitting.task_tensor import per_task, task_tensors_in

BORDERS: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (torch._functorch.vmap, ("_add_batch_dim", "_remove_batch_dim")),
    (torch._functorch.eager_transforms, ("_wrap_for_grad", "_unwrap_for_grad")),
)


def crossing_per_task(plain: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap one of the ``BORDERS``, which wraps or unwraps each task's tensor."""

    @functools.wraps(plain)
    def run(*args: Any) -> Any:
        return per_task(plain, args, {}) if task_tensors_in(args) else plain(*args)

    return run
