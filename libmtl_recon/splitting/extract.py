"""Extract one task's plain network from a split one: its own classes, without the split."""

from __future__ import annotations

import copy
import functools
from typing import Any

from torch import nn

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.arguments import checked_module, checked_task
from libmtl_recon.splitting.attention import evaluate_as_trained
from libmtl_recon.splitting.compile_compat import uncompiled
from libmtl_recon.splitting.split import is_split, selection_of
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import TaskSpecific, make_plain

_OURS = "libmtl_recon."
HOOK_TABLES = {
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_state_dict_hooks": (),
    "_load_state_dict_pre_hooks": (),
}


def extract_task(network: nn.Module, task: str) -> nn.Module:
    """Return one task's network as a plain module, which shares no memory with the split one.

    Its parameters and buffers are those of the task. Their names and the classes are those from
    before the split. Its outputs are the split network's for the task.

    Args:
        network: A network split by :func:`~libmtl_recon.split_layers`.
        task: The task's name.

    Raises:
        UsageError: The network has no such task.
        ReconError: The network is not split.
    """
    network = uncompiled(checked_module(network, "network"))
    evaluate_as_trained(network)  # what is taken out is compared with the network, and exported
    if not is_split(network):
        raise ReconError(
            f"{type(network).__name__} is neither a network that split_layers has split nor one "
            "that contains such a network, so no task's network can be extracted from it."
        )
    checked_task(task, selection_of(network).tasks)
    return taken_out(copy.deepcopy(network), task)


def taken_out(copied: nn.Module, task: str) -> nn.Module:
    """Remove everything that this package added from a copy, in place."""
    for module in list(copied.modules()):
        if isinstance(module, TaskSpecific):
            make_plain(module, task)
    for module in copied.modules():
        drop_hooks(module)
        for name, value in list(vars(module).items()):
            # A forward of ours stands before the network's own.
            ours = str(getattr(value, "__module__", "")).startswith(_OURS)
            if isinstance(value, TaskSelection) or ours:
                del vars(module)[name]
    return copied


def drop_hooks(module: nn.Module) -> None:
    """Remove the hooks of this package from a module."""
    for table, more in HOOK_TABLES.items():
        hooks: dict[int, Any] = vars(module).get(table, {})
        for key, hook in list(hooks.items()):
            function = getattr(hook, "hook", hook)
            if isinstance(function, functools.partial):
                function = function.func
            if str(getattr(function, "__module__", "")).startswith(_OURS):
                del hooks[key]
                for other in more:
                    vars(module).get(other, {}).pop(key, None)
