"""Running statistics of activations in modules that stay shared.

If their input differs between tasks, they must keep separate statistics per task.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.custom_functions import inside_custom_function
from libmtl_recon.splitting.state import accept_plain_state, buffer_names
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import TaskSpecific, TaskValues, make_task_specific
from libmtl_recon.splitting.task_tensor import TaskTensor, task_tensors_in

_SELECTION = "_statistics_selection"


def follow_statistics(
    network: nn.Module,
    selection: TaskSelection,
    *,
    mixed: bool = False,
    besides: Collection[nn.Module] = (),
) -> None:
    """Make the norms of a network keep running statistics per task once they receive task tensors.

    Norms before the first split receive none and keep plain statistics. A spectral norm keeps the
    singular vectors of each task's weight in the same way. Other modules that write a task's values
    into a buffer are refused when they do so, and so are norms that are trained inside a custom
    autograd function, such as a reentrant checkpoint.

    Args:
        network: A network whose chosen layers are split.
        selection: The network's choice of tasks.
        mixed: Whether the norms keep one set of running statistics, which each task updates in
            turn. Training then normalises by each task's batch, and evaluation by a mixture.
        besides: Modules that already belong to one task, which are not changed.
    """
    alone = {id(module) for module in besides}
    for module in list(network.modules()):
        if isinstance(module, TaskSpecific | TaskValues) or id(module) in alone:
            continue
        if not buffer_names(module):
            continue
        spectral = isinstance(module, _SpectralNorm)
        if not spectral and not isinstance(module, torch.nn.modules.batchnorm._NormBase):
            module.register_forward_hook(_refuse_task_tensors_in_buffers)
            continue
        accept_plain_state(module, selection)
        if mixed and not spectral:
            make_task_specific(module, (), selection)
        else:
            vars(module)[_SELECTION] = selection
            module.register_forward_pre_hook(_split_on_task_tensor, with_kwargs=True)


def _split_on_task_tensor(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not buffer_names(module):
        return
    if inside_custom_function() and module.training and not isinstance(module, _SpectralNorm):
        raise ReconError(
            f"A {type(module).__name__} behind the first split keeps statistics per task, and "
            "inside a custom autograd function it cannot determine the task of its input. With "
            "torch.utils.checkpoint use use_reentrant=False; otherwise call the norm outside of "
            "that function, or split with bn='mixed'."
        )
    if task_tensors_in((args, kwargs)):
        make_task_specific(module, buffer_names(module), vars(module)[_SELECTION])


def _refuse_task_tensors_in_buffers(module: nn.Module, _: Any, __: Any) -> None:
    for name, buffer in module._buffers.items():
        if type(buffer) is TaskTensor:
            raise ReconError(
                f"{type(module).__name__} keeps a value that differs between tasks in its buffer "
                f"{name!r}, which all tasks share. Split this layer too, so that each task has "
                "its own buffer, or leave the layers before it shared."
            )
