"""Find the layers to split, and refuse by name those that cannot be split."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from libmtl_recon.conflicts.layers import ROOT, layer_name, owned_parameters
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.splitting.compile_compat import compiled_parts
from libmtl_recon.task_names import check_task_names
from libmtl_recon.texts import nearest

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def checked_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """Return the tasks' names, checked.

    Raises:
        UsageError: See :func:`~libmtl_recon.task_names.check_task_names`.
    """
    check_task_names("tasks", tasks)
    return tuple(tasks)


def find_layers(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the modules of the named layers, in the order of the names.

    Raises:
        UsageError: A layer does not exist, has no trainable parameters, or cannot be split.
        ReconError: The network is compiled, by ``torch.jit`` or ``torch.compile``.
    """
    scripted = [n for n, m in module.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        raise ReconError(
            f"{_part(scripted[0])} is compiled by torch.jit, whose modules cannot be split. Split "
            "the plain module, before torch.jit.script or torch.jit.trace."
        )
    compiled = compiled_parts(module)
    if compiled:
        raise ReconError(
            f"{_part(compiled[0])} is compiled by torch.compile, which cannot trace task-specific "
            "layers. Split the plain module; what is around it may be compiled afterwards."
        )
    owners = {name: owner for name, owner, _ in owned_parameters(module)}
    # A module may have several names; any of them will do.
    every = {layer_name(n): m for n, m in module.named_modules(remove_duplicate=False)}
    found = {name: _find(name, owners, every) for name in map(layer_name, names)}
    for name, owner in found.items():
        _refuse_unfit(name, owner)
    return found


def tied_parameters(
    module: nn.Module, owners: Mapping[str, nn.Module], besides: Collection[nn.Module] = ()
) -> list[tuple[nn.Module, list[str]]]:
    """Return other modules that hold parameters of the chosen layers, and which.

    Args:
        module: The network.
        owners: The chosen layers, by name.
        besides: Modules that belong to one task, which are left out.

    Raises:
        UsageError: Such a module is itself a layer with other parameters that stay shared.
    """
    chosen = {id(owner): name for name, owner in owners.items()}
    apart = {id(other) for other in besides}
    first = {id(p): chosen[id(o)] for o in owners.values() for p in o._parameters.values()}
    found = []
    for other_name, other in module.named_modules():
        held = {n: p for n, p in other._parameters.items() if p is not None}
        names = [name for name, parameter in held.items() if id(parameter) in first]
        if id(other) in chosen or id(other) in apart or not names:
            continue
        if any(p.requires_grad and id(p) not in first for p in held.values()):
            holder = layer_name(other_name)
            raise UsageError(
                "layers",
                "must not share their parameters with a layer that stays shared",
                first[id(held[names[0]])],
                f"It shares {names[0]!r} with {holder!r}: choose both of them or neither.",
            )
        found.append((other, names))
    return found


def _part(name: str) -> str:
    return f"This network's part {name!r}" if name else "This network"


def _find(name: str, owners: Mapping[str, nn.Module], every: Mapping[str, nn.Module]) -> nn.Module:
    if name in owners:
        return owners[name]
    rule = "must name modules that hold trainable parameters of their own"
    if name not in every:
        path, _, last = name.rpartition(".")
        owner = every.get(layer_name(path))
        if owner is not None and last in owner._parameters:
            way_out = f"It is a parameter of {layer_name(path)!r}: give that name."
            raise UsageError("layers", rule, name, way_out)
        close = nearest(name, owners, most=3, likeness=0.4) or list(owners)[:3]
        raise UsageError(
            "layers", rule, name, f"There is no such module; similar names: {', '.join(close)}."
        )
    wanted = every[name]
    if any(wanted is owner for owner in owners.values()):
        return wanted
    for parameter in wanted._parameters.values():
        holder = next((n for n, o in owners.items() if _holds(o, parameter)), None)
        if holder is not None:
            raise UsageError(
                "layers",
                rule,
                name,
                f"Its parameters belong to the layer {holder!r}, which shares them.",
            )
    inner = [n for n in owners if n.startswith(f"{name}.") or name == ROOT][:3]
    way_out = f"It contains {', '.join(inner)}." if inner else "It holds no parameters."
    raise UsageError("layers", rule, name, way_out)


def _holds(owner: nn.Module, parameter: nn.Parameter | None) -> bool:
    return parameter is not None and any(parameter is p for p in owner._parameters.values())


def _refuse_unfit(name: str, owner: nn.Module) -> None:
    if any(p is not None and is_lazy(p) for p in owner._parameters.values()):
        raise UsageError(
            "layers",
            "must be initialised; a lazy module is initialised by its first input",
            name,
            "Run the network once before splitting it.",
        )
    # A parametrisation (weight norm, for one) finds its members by their numbers only.
    if isinstance(owner, _CONTAINERS) and not isinstance(owner, ParametrizationList):
        raise UsageError(
            "layers",
            "must not be containers whose members are their layers (nn.Sequential, nn.ModuleList, "
            "nn.ModuleDict), even with parameters of their own",
            name,
            "Leave it shared, or put its own parameters into a module inside it.",
        )
