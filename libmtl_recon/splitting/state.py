"""State dicts of split modules, and of the network before its split."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import CHILD, TaskSpecific, make_task_specific
from libmtl_recon.splitting.task_tensor import pick

_SELECTION = "_state_selection"
_COUNTER = "num_batches_tracked"


def accept_plain_state(module: nn.Module, selection: TaskSelection) -> None:
    """Make a module of a split network load state dicts from before and after the split.

    From a state dict without tasks, each task gets a copy of the values. A state dict with
    statistics per task splits a norm whose statistics are not split yet.

    Args:
        module: A module of a split network.
        selection: The network's choice of tasks.
    """
    vars(module)[_SELECTION] = selection
    module.register_load_state_dict_pre_hook(_match_state_dict)


def plain_names(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the keys of the state dict before the split, and those that replaced each.

    Example:
        >>> from libmtl_recon import split_layers
        >>> split = split_layers(nn.Sequential(nn.Linear(2, 2, bias=False)), ["0"], ["a", "b"])
        >>> plain_names(split)
        {'0.weight': ('0.tasks.a.weight', '0.tasks.b.weight')}
    """
    found: dict[str, tuple[str, ...]] = {}
    inside = [
        (f"{name}.{CHILD}." if name else f"{CHILD}.", f"{name}." if name else "")
        for name, owner in module.named_modules(remove_duplicate=False)
        if isinstance(owner, TaskSpecific)
    ]
    for key in module.state_dict():
        plain = key
        for within, prefix in inside:
            if key.startswith(within):
                plain = prefix + key.removeprefix(within).split(".", 1)[1]
        found[plain] = (*found.get(plain, ()), key)
    return found


def split_statistics(network: nn.Module, keys: Collection[str]) -> None:
    """Make norms keep statistics per task if a state dict has them, as loading it would do.

    A norm keeps statistics per task from its first input that differs between tasks on. Call this
    before comparing the keys of a network with those of a state dict that is not yet loaded.

    Args:
        network: The split network; norms that deliberately keep one set for all tasks stay so.
        keys: The keys of the state dict.
    """
    for name, module in list(network.named_modules()):
        selection: TaskSelection | None = vars(module).get(_SELECTION)
        if selection is None or isinstance(module, TaskSpecific):
            continue
        own = buffer_names(module)
        task = f"{name}.{CHILD}.{selection.tasks[0]}." if name else f"{CHILD}.{selection.tasks[0]}."
        if own and any(key.startswith(task) for key in keys):
            make_task_specific(module, own, selection)


def _match_state_dict(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *more: Any
) -> None:
    selection: TaskSelection = vars(module)[_SELECTION]
    keys = [f"{prefix}{CHILD}.{task}." for task in selection.tasks]
    per_task = any(key.startswith(keys[0]) for key in state_dict)
    own = buffer_names(module)
    if f"{keys[0]}{_COUNTER}" in state_dict:
        # Norms add it to a state dict that carries no versions, as a plain dict does not.
        state_dict.pop(f"{prefix}{_COUNTER}", None)
    if per_task and own and isinstance(module, TaskSpecific):
        # The statistics stayed shared on purpose; torch raises what stands in this list.
        more[-1].append(
            f"{prefix.removesuffix('.')} keeps statistics that all tasks share (bn='mixed'), but "
            "the state dict has them per task."
        )
    elif per_task and own:
        make_task_specific(module, own, selection)
    elif not per_task and isinstance(module, TaskSpecific):
        for name in module._split_names:
            if f"{prefix}{name}" in state_dict:
                value = state_dict.pop(f"{prefix}{name}")
                for place, key in enumerate(keys):
                    state_dict[f"{key}{name}"] = pick(value, place).clone()


def buffer_names(module: nn.Module) -> tuple[str, ...]:
    """Return the names of a module's own buffers."""
    return tuple(name for name, buffer in module._buffers.items() if buffer is not None)
