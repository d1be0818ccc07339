"""What a network keeps of the activations that it sees, in modules that stay shared.

Their input may differ between tasks, and what they keep of it must then be a task's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from libmtl_recon.architecture.bundle import Bundle, bundles_in
from libmtl_recon.architecture.task_specific import (
    CHILD,
    TaskSelection,
    TaskSpecific,
    TaskValues,
    make_task_specific,
)
from libmtl_recon.errors import ReconError

_SELECTION = "_statistics_selection"


def follow_statistics(network: nn.Module, selection: TaskSelection) -> None:
    """Have the norms of a network keep running statistics per task once they see bundles.

    What stands before the first split sees none and keeps plain statistics. A state dict with
    statistics per task, or without, loads into either. Other modules that put a task's
    values into a buffer are refused when they do so.
    """
    for module in list(network.modules()):
        if isinstance(module, TaskSpecific | TaskValues) or not _buffers(module):
            continue
        if isinstance(module, torch.nn.modules.batchnorm._NormBase):
            vars(module)[_SELECTION] = selection
            module.register_forward_pre_hook(_split_on_bundle, with_kwargs=True)
            module.register_load_state_dict_pre_hook(_match_state_dict)
        else:
            module.register_forward_hook(_refuse_bundles_in_buffers)


def _buffers(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, buffer in module._buffers.items() if buffer is not None)


def _split_on_bundle(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if _buffers(module) and bundles_in((args, kwargs)):
        make_task_specific(module, _buffers(module), vars(module)[_SELECTION])


def _match_state_dict(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    selection: TaskSelection = vars(module)[_SELECTION]
    keys = [f"{prefix}{CHILD}.{task}." for task in selection.tasks]
    per_task = any(key.startswith(keys[0]) for key in state_dict)
    if per_task and _buffers(module):
        make_task_specific(module, _buffers(module), selection)
    elif not per_task and isinstance(module, TaskSpecific):
        for name in module._split_names:
            if f"{prefix}{name}" in state_dict:
                value = state_dict.pop(f"{prefix}{name}")
                state_dict.update({f"{key}{name}": value.clone() for key in keys})


def _refuse_bundles_in_buffers(module: nn.Module, _: Any, __: Any) -> None:
    for name, buffer in module._buffers.items():
        if type(buffer) is Bundle:
            raise ReconError(
                f"{type(module).__name__} keeps a value that differs between tasks in its buffer "
                f"{name!r}, which all tasks share. Split this layer too, which gives each task a "
                "buffer of its own, or leave the layers before it shared."
            )
