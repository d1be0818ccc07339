"""Modules whose parameters or statistics are a task's own: the machinery under `split`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.architecture.bundle import Bundle
from libmtl_recon.errors import UsageError

# The child module in which a split module keeps its tasks' values.
CHILD = "tasks"


class TaskSelection:
    """Which tasks a split network computes at the moment; shared by all its split modules.

    Args:
        tasks: All tasks, in the order of a bundle's parts.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        self.tasks = tuple(tasks)
        self.active = self.tasks


class TaskValues(nn.Module):
    """One task's parameters and buffers of one module."""


class TaskSpecific(nn.Module):
    """What a module's class becomes: the named parameters and buffers are handed out as bundles.

    The values live in the child ``tasks``, one :class:`TaskValues` a task, so that the keys of
    the state dict read ``layer1.0.bn1.tasks.digit.weight``.
    """

    _selection: TaskSelection
    _split_names: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("_split_names", ()):
            owners = self._modules[CHILD]._modules  # type: ignore[union-attr]  # is always there
            return Bundle([getattr(owners[task], name) for task in self._selection.active])
        return super().__getattr__(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class was made at run time: pickle and deepcopy make it anew from the plain one.
        state = self.__getstate__()  # type: ignore[no-untyped-call]  # of object, or an RNN's own
        return _blank, (plain_class(self),), state


class TaskSpecificRNN(TaskSpecific):
    """Recurrent modules keep a list of their weights, and hand that to torch."""

    @property
    def _flat_weights(self) -> list[Any]:
        return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, _: list[Any]) -> None:
        """The list always follows from the weights."""

    _flat_weights_names: list[str]

    def _weights_have_changed(self) -> bool:
        return False

    def flatten_parameters(self) -> None:
        """Nothing: cuDNN's packing is for one set of weights."""


_classes: dict[type[nn.Module], type[nn.Module]] = {}


def task_specific_class(plain: type[nn.Module]) -> type[nn.Module]:
    """The class of modules of a plain class after their split; a subclass of it, made once."""
    if plain not in _classes:
        _classes[plain] = _derive(plain)
    return _classes[plain]


def _derive(plain: type[nn.Module]) -> type[nn.Module]:
    mixin = TaskSpecificRNN if issubclass(plain, nn.RNNBase) else TaskSpecific
    return type(
        f"TaskSpecific{plain.__name__}",
        (mixin, plain),
        {"__module__": __name__, "_plain_class": plain, "__doc__": plain.__doc__},
    )


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has, or had before its split."""
    found: type[nn.Module] = vars(type(module)).get("_plain_class", type(module))
    return found


def make_task_specific(module: nn.Module, names: Iterable[str], selection: TaskSelection) -> None:
    """Replace the named parameters and buffers of a module by one copy a task, in place.

    Args:
        module: Its class becomes a subclass of what it was.
        names: Parameters or buffers that the module itself holds and that are not None.
        selection: Of the network that the module is part of.

    Raises:
        UsageError: The module has an attribute ``tasks`` of its own, or a task's name cannot be
            the name of a module.
    """
    names = tuple(names)
    if not isinstance(module, TaskSpecific):
        if hasattr(module, CHILD):
            raise UsageError(
                "layers",
                f"must not have an attribute {CHILD!r} of their own, which a split layer needs",
                type(module).__name__,
                f"Rename the attribute {CHILD!r} of that class.",
            )
        module.add_module(CHILD, nn.Module())
        module.__class__ = task_specific_class(type(module))
        vars(module).update(_selection=selection, _split_names=())
    holder = module._modules[CHILD]
    for task in selection.tasks:
        values = holder._modules.get(task) or TaskValues()  # type: ignore[union-attr]
        for name in names:
            parameter = module._parameters.get(name)
            if parameter is not None:
                copy = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                values.register_parameter(name, copy)
            else:
                persistent = name not in module._non_persistent_buffers_set
                values.register_buffer(name, module._buffers[name].clone(), persistent)  # type: ignore[union-attr]
        if task not in holder._modules:  # type: ignore[union-attr]
            holder.add_module(task, values)  # type: ignore[union-attr]
        values.train(module.training)
    for name in names:
        module._parameters.pop(name, None)
        module._buffers.pop(name, None)
    vars(module)["_split_names"] += names
    # Recurrent modules keep stale references otherwise.
    vars(module).pop("_flat_weights", None)


def values_of(module: nn.Module, task: str) -> dict[str, Tensor]:
    """A split module's parameters and buffers of one task; empty if it is not split."""
    if not isinstance(module, TaskSpecific):
        return {}
    values = module._modules[CHILD]._modules[task]  # type: ignore[union-attr]
    return {name: getattr(values, name) for name in module._split_names}


def follow_statistics(module: nn.Module, selection: TaskSelection) -> None:
    """Have a module that stays shared keep running statistics per task once it sees bundles.

    What stands before the first split sees none and keeps plain statistics. A state dict with
    statistics per task, or without, loads into either.
    """
    vars(module)["_statistics_selection"] = selection
    module.register_forward_pre_hook(_split_statistics_on_bundle)
    module.register_load_state_dict_pre_hook(_match_statistics)


def _statistics(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, buffer in module._buffers.items() if buffer is not None)


def _split_statistics_on_bundle(module: nn.Module, args: tuple[Any, ...]) -> None:
    if any(type(argument) is Bundle for argument in args) and _statistics(module):
        make_task_specific(module, _statistics(module), vars(module)["_statistics_selection"])


def _match_statistics(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    selection: TaskSelection = vars(module)["_statistics_selection"]
    keys = [f"{prefix}{CHILD}.{task}." for task in selection.tasks]
    per_task = any(key.startswith(keys[0]) for key in state_dict)
    if per_task and _statistics(module):
        make_task_specific(module, _statistics(module), selection)
    elif not per_task and isinstance(module, TaskSpecific):
        for name in module._split_names:
            if f"{prefix}{name}" in state_dict:
                value = state_dict.pop(f"{prefix}{name}")
                state_dict.update({f"{key}{name}": value.clone() for key in keys})


def _blank(plain: type[nn.Module]) -> nn.Module:
    made = task_specific_class(plain)
    return made.__new__(made)


def has_running_statistics(module: nn.Module) -> bool:
    """Whether a module keeps statistics of what it sees: batch norm, tracking instance norm."""
    return isinstance(module, torch.nn.modules.batchnorm._NormBase) and bool(_statistics(module))
