"""Handle parameters of layers to split that a part of the model for one task also holds.

For example, a decoder's output layer may be the encoder's embedding. The part for each task then
holds the copy for that task.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from libmtl_recon.errors import UsageError
from libmtl_recon.splitting.pytree import leaves
from libmtl_recon.splitting.task_specific import Copies

_TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True)
class Place:
    """The position of a part of a model that belongs to one task.

    Attributes:
        holder: The parent module.
        key: The name of the part in the parent.
        task: The task that the part belongs to.
        path: The path of the part in the model.
    """

    holder: nn.Module
    key: str
    task: str
    path: str

    @property
    def module(self) -> nn.Module:
        """The module at this position."""
        found = self.holder._modules[self.key]
        assert found is not None
        return found


@dataclass(frozen=True)
class Tie:
    """A parameter in a task's part that will be replaced by that task's copy."""

    module: nn.Module
    name: str
    task: str
    parameter: nn.Parameter


def common_modules(model: nn.Module, places: Collection[Place]) -> set[int]:
    """Return the identities of the modules that are reached without entering one task's part."""
    apart = {(id(place.holder), place.key) for place in places}
    found: set[int] = set()

    def walk(module: nn.Module) -> None:
        found.add(id(module))
        for key, child in module._modules.items():
            if child is not None and (id(module), key) not in apart and id(child) not in found:
                walk(child)

    walk(model)
    return found


def part_ways(
    model: nn.Module, root: nn.Module, layers: Mapping[str, nn.Module], places: Collection[Place]
) -> list[Tie]:
    """Find the parameters that tasks' parts of a model share with layers to split.

    A module that a task's part shares as a whole (with the network, or with another task's part) is
    replaced there by a separate module, which holds the same parameters.

    Args:
        model: A model in which some parts belong to one task each.
        root: The part of it whose layers are split, or the model itself.
        layers: The layers to split, by name.
        places: The positions of the tasks' parts.

    Returns:
        The parameters to tie again with :func:`tie`.

    Raises:
        UsageError: Another part of the model holds a parameter of such a layer, or a module that is
            to be replaced has buffers.
    """
    names = names_of_parameters(layers)
    common = common_modules(model, places)
    _refuse_elsewhere(model, root, names, common)
    refuse_untold(model, names)
    owners: dict[int, set[str]] = {}
    for place in places:
        for module in place.module.modules():
            owners.setdefault(id(module), set()).add(place.task)
    alone = {key for key, tasks in owners.items() if len(tasks) == 1 and key not in common}
    made: dict[tuple[int, str], nn.Module] = {}
    ties: list[Tie] = []
    for place in places:
        own = _own(place.module, place, names, alone, made, ties)
        place.holder._modules[place.key] = own
    return ties


def tie(ties: Collection[Tie], copies: Copies) -> None:
    """Replace parameters in tasks' parts by the tasks' copies, after the layers were split."""
    for one in ties:
        one.module._parameters[one.name] = copies[one.parameter][one.task]
        if isinstance(one.module, nn.RNNBase):
            one.module._init_flat_weights()


def names_of_parameters(layers: Mapping[str, nn.Module]) -> dict[int, str]:
    """Return the names of layers, by the identities of their own parameters."""
    return {id(p): name for name, layer in layers.items() for p in layer.parameters(recurse=False)}


def refuse_untold(model: nn.Module, names: Mapping[int, str]) -> None:
    """Refuse parameters of layers to split that are held without being registered with torch.

    Args:
        model: The module that contains the layers.
        names: The names of the layers, by the identities of their parameters.

    Raises:
        UsageError: An attribute of a module (such as a list) holds such a parameter, and would keep
            holding it; or another parameter has the same memory.
    """
    _refuse_same_memory(model, names)
    for path, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in _TABLES or attribute == "_flat_weights":
                continue
            held = next((names[id(leaf)] for leaf in leaves(value) if id(leaf) in names), None)
            if held is not None:
                raise UsageError(
                    "layers",
                    "must not have parameters that are also held without being registered with "
                    "torch, where they would not be replaced by the tasks' copies",
                    held,
                    f"The attribute {attribute!r} of {path or type(model).__name__} holds one: "
                    "register it (assign it to an attribute, or use nn.ParameterList), or leave "
                    "the layer shared.",
                )


def _refuse_same_memory(model: nn.Module, names: Mapping[int, str]) -> None:
    own, others = [], []
    for path, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.layout != torch.strided or not parameter.data_ptr():
            continue
        start = parameter.data_ptr()
        span = (start, start + parameter.numel() * parameter.element_size())
        if id(parameter) in names:
            own.append((names[id(parameter)], span))
        else:
            others.append((path, span))
    for name, (start, end) in own:
        for path, (first, last) in others:
            if first < end and start < last:
                raise UsageError(
                    "layers",
                    "must not have parameters that share memory with another parameter",
                    name,
                    f"The other parameter is {path}. Tie them by assigning the parameter itself "
                    "(a.weight = b.weight), or leave the layer shared.",
                )


def _refuse_elsewhere(
    model: nn.Module, root: nn.Module, names: Mapping[int, str], common: Collection[int]
) -> None:
    inside = {id(module) for module in root.modules()} if root is not model else common
    for path, module in model.named_modules():
        if id(module) in inside or id(module) not in common:
            continue
        for key, parameter in module._parameters.items():
            if id(parameter) in names:
                raise UsageError(
                    "layers",
                    "must not share their parameters with a part of the model that belongs "
                    "neither to them nor to a single task",
                    names[id(parameter)],
                    f"It shares {key!r} of {path or type(model).__name__}: leave it shared.",
                )


def _own(
    module: nn.Module,
    place: Place,
    names: Mapping[int, str],
    alone: Collection[int],
    made: dict[tuple[int, str], nn.Module],
    ties: list[Tie],
) -> nn.Module:
    """Return a task's part, or a part of it, separated from those of other tasks."""
    known = made.get((id(module), place.task))
    if known is not None:
        return known
    if not any(id(parameter) in names for parameter in module.parameters()):
        return module
    own = module if id(module) in alone else _twin(module, place, names)
    made[id(module), place.task] = own
    for name, parameter in own._parameters.items():
        if parameter is not None and id(parameter) in names:
            ties.append(Tie(own, name, place.task, parameter))
    for name, child in own._modules.items():
        if child is not None:
            own._modules[name] = _own(child, place, names, alone, made, ties)
    return own


def _twin(module: nn.Module, place: Place, names: Mapping[int, str]) -> nn.Module:
    """Return a new module of the same class that holds the same parameters and children."""
    if any(buffer is not None for buffer in module._buffers.values()):
        held = next(names[id(p)] for p in module.parameters() if id(p) in names)
        raise UsageError(
            "layers",
            "must not be in a module with buffers that is shared with a task's part of the model",
            held,
            f"{place.path} shares {type(module).__name__}. Use a separate module there, or leave "
            "the layer shared.",
        )
    twin = module.__new__(type(module))
    vars(twin).update({key: _rebound(v, module, twin) for key, v in vars(module).items()})
    return twin


def _rebound(value: Any, module: nn.Module, twin: nn.Module) -> Any:
    if isinstance(value, MethodType) and value.__self__ is module:
        return MethodType(value.__func__, twin)
    # The tables of parameters, modules and hooks.
    return value.copy() if isinstance(value, dict) else value


def own_modules(model: nn.Module, places: Collection[Place]) -> list[nn.Module]:
    """Return the modules of tasks' parts that the rest of the model does not hold."""
    common = common_modules(model, places)
    return [
        module for place in places for module in place.module.modules() if id(module) not in common
    ]
