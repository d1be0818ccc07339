"""Parts of a LibMTL model that belong to one task: decoders, gates, experts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from libmtl_recon.splitting.ties import Place

# LibMTL's MTAN keeps its tasks' attention by number; all other parts are kept by name.
BY_NUMBER = "encoder_att"


def places_of_tasks(
    model: Any, tasks: Sequence[str], shared: Collection[nn.Parameter]
) -> list[Place]:
    """Return the outermost parts of a LibMTL model that belong to one task.

    Args:
        model: The model before its split.
        tasks: The tasks' names.
        shared: The parameters that, according to the model, all tasks share.
    """
    ids = {id(parameter) for parameter in shared}
    found: list[Place] = []

    def take(holder: nn.Module, path: str, whose: Mapping[str, str]) -> None:
        found.extend(Place(holder, key, task, f"{path}.{key}") for key, task in whose.items())

    def walk(module: nn.Module, path: str, parent: str) -> None:
        if all(id(parameter) in ids for parameter in module.parameters()):
            return  # what an expert calls by the tasks' names is still shared
        children = list(module._modules)
        if isinstance(module, nn.ModuleDict) and children == list(tasks):
            take(module, path, {task: task for task in tasks})
        elif isinstance(module, nn.ModuleList) and parent == BY_NUMBER:
            take(module, path, dict(zip(children, tasks, strict=True)))
        else:
            for key, child in module.named_children():
                if module is not model or key != "decoders":
                    walk(child, f"{path}.{key}" if path else key, path.rpartition(".")[2])

    for task in tasks:
        holder, key = _where(model.decoders, task)
        found.append(Place(holder, key, task, f"decoders.{task}"))
    walk(model, "", "")
    return found


def _where(container: nn.Module, task: str) -> tuple[nn.Module, str]:
    """Return the module inside the decoders that holds a task's, and its name there."""
    part = container[task]  # type: ignore[index]  # as LibMTL does
    if container._modules.get(task) is part:
        return container, task
    return next(
        (module, key)
        for module in container.modules()
        for key, child in module._modules.items()
        if child is part
    )
