"""Making any network's layers task-specific, without touching its code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.architecture.bundle import bundles_in, pick
from libmtl_recon.architecture.task_specific import (
    TaskSelection,
    TaskSpecific,
    TaskValues,
    follow_statistics,
    has_running_statistics,
    make_task_specific,
    values_of,
)
from libmtl_recon.conflict.layers import owned_parameters
from libmtl_recon.errors import ReconError, UsageError

_SELECTION = "_task_selection"


def split_layers(module: nn.Module, layers: Iterable[str], tasks: Sequence[str]) -> nn.Module:
    """Give each task its own copy of some layers, in place.

    Called afterwards, the network returns a :class:`~libmtl_recon.Bundle` whose ``parts`` are
    the T outputs in the order of ``tasks`` (or, if the result met no split layer, the plain
    tensor). Layers before the first split run once, the others once a task. Copies start equal.
    Batch norms keep running statistics per task wherever their input is a task's own.

    Args:
        module: Any network whose operations are torch functions.
        layers: Paths of modules that hold parameters of their own, e.g. ``layer1.0.bn1``.
        tasks: The tasks' names, which appear in the state dict's keys.

    Returns:
        The module itself.

    Raises:
        UsageError: A layer does not exist, holds no parameters, or shares them with another; or
            the tasks' names are none, twice the same, or unfit for a module's name.
        ReconError: The network was split already, or is compiled by ``torch.jit``.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> split_layers(net, ["1"], ["left", "right"])(torch.ones(3, 4)).parts[0].shape
        torch.Size([3, 2])
    """
    names = list(dict.fromkeys(layers))
    tasks = _checked_tasks(tasks)
    if is_split(module):
        raise ReconError(
            "This network was split before; a second split is not defined. Build the network anew "
            "and split all layers at once."
        )
    owners = _find(module, names)
    selection = TaskSelection(tasks)
    for name, owner in owners.items():
        buffers = [b for b, value in owner._buffers.items() if value is not None]
        parameters = [p for p, value in owner._parameters.items() if value is not None]
        _refuse_tied(module, name, owner)
        make_task_specific(owner, [*parameters, *buffers], selection)
    for other in list(module.modules()):
        if has_running_statistics(other) and not isinstance(other, TaskSpecific | TaskValues):
            follow_statistics(other, selection)
    vars(module)[_SELECTION] = selection
    module.register_forward_hook(_unwrap_single)
    return module


@contextmanager
def only_task(module: nn.Module, task: str) -> Iterator[nn.Module]:
    """Inside the ``with`` block the network computes one task's branch alone.

    It then returns plain tensors, that task's.

    Args:
        module: A network that was split.
        task: The task's name.

    Raises:
        UsageError: The network was not split, or not for this task.
    """
    selection = _selection_of(module)
    if task not in selection.tasks:
        raise UsageError(
            "task",
            "must be one that the network was split for",
            task,
            f"They are {selection.tasks}.",
        )
    before, selection.active = selection.active, (task,)
    try:
        yield module
    finally:
        selection.active = before


def is_split(module: nn.Module) -> bool:
    """Whether :func:`split_layers` was applied to this network."""
    return _SELECTION in vars(module)


def shared_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that all tasks share, in network order; all of them, if nothing is split."""
    own = {
        id(parameter)
        for values in module.modules()
        if isinstance(values, TaskValues)
        for parameter in values.parameters()
    }
    return [parameter for parameter in module.parameters() if id(parameter) not in own]


def task_parameters(module: nn.Module, task: str) -> dict[str, Tensor]:
    """One task's values of the split layers, under the names that the plain network has for them.

    Raises:
        UsageError: The network was not split for this task.
    """
    if task not in _selection_of(module).tasks:
        raise UsageError("task", "must be one that the network was split for", task, "")
    return {
        f"{name}.{key}" if name else key: value
        for name, owner in module.named_modules()
        for key, value in values_of(owner, task).items()
    }


def _selection_of(module: nn.Module) -> TaskSelection:
    if not is_split(module):
        raise UsageError(
            "module",
            "must be a network that split_layers was applied to",
            type(module).__name__,
            "Call split_layers(module, layers, tasks) first.",
        )
    selection: TaskSelection = vars(module)[_SELECTION]
    return selection


def _unwrap_single(module: nn.Module, _: Any, output: Any) -> Any:
    single = len(_selection_of(module).active) == 1 != len(_selection_of(module).tasks)
    return pick(output, 0) if single and any(True for _ in bundles_in(output)) else output


def _checked_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    tasks = tuple(tasks)
    if not tasks or len(set(tasks)) < len(tasks) or isinstance(tasks, str):
        raise UsageError(
            "tasks", "must be names, at least one and none twice", tasks, "Rename the tasks."
        )
    unfit = [t for t in tasks if not isinstance(t, str) or not t or "." in t]
    unfit += [t for t in tasks if t not in unfit and hasattr(nn.Module, t)]
    if unfit:
        raise UsageError(
            "tasks",
            "must be fit for a module's name: not empty, without a dot, no attribute of nn.Module",
            unfit[0],
            "Rename the task.",
        )
    return tasks


def _find(module: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of the named layers, in the order of the names."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ReconError(
            "This network is compiled by torch.jit, whose modules cannot be split. Split the plain "
            "module, before torch.jit.script or torch.jit.trace."
        )
    owners = {name: owner for name, owner, _ in owned_parameters(module)}
    every = dict(module.named_modules())
    for name in names:
        if name in owners:
            continue
        rule = "must name modules that hold trainable parameters of their own"
        if name in every:
            inner = [n for n in owners if n.startswith(f"{name}.")][:3]
            way = f"Inside it there are {', '.join(inner)}." if inner else "It has none."
            raise UsageError("layers", rule, name, way)
        close = difflib.get_close_matches(name, owners, n=3, cutoff=0.4) or list(owners)[:3]
        raise UsageError("layers", rule, name, f"There is none; similar ones: {', '.join(close)}.")
    return {name: owners[name] for name in names}


def _refuse_tied(module: nn.Module, name: str, owner: nn.Module) -> None:
    own = {id(p) for p in owner._parameters.values() if p is not None}
    for other_name, other in module.named_modules():
        if other is not owner and own & {
            id(p) for p in other._parameters.values() if p is not None
        }:
            raise UsageError(
                "layers",
                "must not share their parameters with another layer",
                name,
                f"It shares them with {other_name!r}; leave both of them shared.",
            )
