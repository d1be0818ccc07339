"""Check the types of arguments of the library's functions, and refuse others by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from libmtl_recon.conflicts.layers import layer_name
from libmtl_recon.errors import UsageError
from libmtl_recon.splitting.names import unknown_task


def checked_arguments(
    module: Any, layers: Any, tasks: Any
) -> tuple[nn.Module, list[str], tuple[str, ...]]:
    """Check the arguments of :func:`~libmtl_recon.split_layers`.

    Whether the layers exist and whether the tasks' names are valid is not checked.

    There must be at least one layer and two tasks, and no layer twice.

    Args:
        module: The value given as a network.
        layers: The value given as names of its layers: any iterable, also a generator.
        tasks: The value given as names in order: any iterable, also a generator or a dict.

    Raises:
        UsageError: An argument has the wrong type.
    """
    network, checked = checked_module(module), _checked_tasks(tasks)
    if isinstance(layers, str | bytes) or not isinstance(layers, Iterable):
        rule = "must be a sequence of layer names"
        raise UsageError("layers", rule, layers, f"Write [{_layer(layers, network)!r}].")
    # A set has no order of its own, and copies that are drawn anew are drawn one after the other.
    names = sorted(layers, key=repr) if isinstance(layers, set | frozenset) else list(layers)
    for name in names:
        if not isinstance(name, str):
            way_out = f"Write a layer's path in the network, such as {_layer(name, network)!r}."
            raise UsageError("layers", "must be names", name, way_out)
    names = [layer_name(name) for name in names]
    if not names:
        way_out = f"Name the layers to split, such as [{_layer(None, network)!r}]."
        raise UsageError("layers", "must be at least one layer", names, way_out)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError("layers", "must be different layers", twice, "Give it once.")
    if len(checked) == 1:
        raise UsageError(
            "tasks",
            "must be at least two, each of which gets its own copy of the layers",
            checked,
            "A network of one task needs no split.",
        )
    return network, names, checked


def checked_module(module: Any, parameter: str = "module") -> nn.Module:
    """Check that an argument is a network, and return it.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(module, nn.Module):
        return module
    called = getattr(module, "__name__", type(module).__name__)
    way_out = "Give the network first."
    if isinstance(module, type):
        way_out = f"Give an instance, {called}(...), not the class."
    raise UsageError(parameter, "must be a torch.nn.Module", module, way_out)


def checked_task(task: Any, tasks: Sequence[str], parameter: str = "task") -> str:
    """Check the name of a task, and return it.

    Raises:
        UsageError: It is not one of the tasks.
    """
    if not isinstance(task, str) or task not in tasks:
        raise unknown_task(task, tasks, parameter)
    return task


def _checked_tasks(tasks: Any) -> tuple[str, ...]:
    rule, example = "must be different names, at least one", "['digit', 'article']"
    if isinstance(tasks, str):
        raise UsageError("tasks", rule, tasks, f"Write [{tasks!r}, ...], one name per task.")
    if isinstance(tasks, set | frozenset):
        raise UsageError(
            "tasks",
            "must be an ordered sequence of names",
            tasks,
            f"Write a list, such as {example}.",
        )
    if isinstance(tasks, bytes) or not isinstance(tasks, Iterable):
        raise UsageError("tasks", rule, tasks, f"Write one name per task, such as {example}.")
    names = tuple(tasks)
    for name in names:
        if not isinstance(name, str):
            raise UsageError("tasks", "must be names", name, f"Write them as strings, {example}.")
    return names


def _layer(given: Any, network: nn.Module) -> str:
    """Return the name of the layer that was meant, or of some layer if that is unknown."""
    if isinstance(given, str):
        return given
    paths = {id(part): layer_name(path) for path, part in network.named_modules()}
    holders = [layer_name(path) for path, part in network.named_modules() if part._parameters]
    return paths.get(id(given)) or next(iter(holders), "conv1")
