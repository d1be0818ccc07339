"""Parts of a network that already belong to one task: gates, experts, attention.

Next to split layers, they compute with their own task's part of the shared layers' output, and
their output is that task's: T tasks cost T times their work, not T times T.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.pytree import mapped
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_tensor import TaskTensor, pick, task_tensors_in

_SELECTION = "_branch_selection"
_CONTAINERS = (nn.ModuleDict, nn.ModuleList)


class TaskByTask(list[str]):
    """The tasks' names; a loop over them computes one task at a time while that is requested.

    LibMTL's architectures iterate over their tasks in such a loop, after (or between) what the
    tasks share.

    Attributes:
        selection: Requests it with ``choosing_in_loops``; None before the split.
    """

    selection: TaskSelection | None = None

    def __iter__(self) -> Iterator[str]:
        names = super().__iter__()
        if self.selection is None or not self.selection.one_by_one:
            yield from names
            return
        for name in names:
            with self.selection.only(name):
                yield name


def find_branches(network: nn.Module, shared: Collection[nn.Parameter]) -> list[nn.Module]:
    """Return the outermost modules that hold parameters, but none of the shared ones.

    Args:
        network: A network before its split.
        shared: The parameters that all tasks share.
    """
    ids = {id(parameter) for parameter in shared}
    found: dict[int, nn.Module] = {}

    def walk(module: nn.Module) -> None:
        held = {id(parameter) for parameter in module.parameters()}
        if held and held.isdisjoint(ids):
            found[id(module)] = module
            return
        for child in module.children():
            walk(child)

    walk(network)
    return list(found.values())


def keep_to_their_task(branches: Collection[nn.Module], selection: TaskSelection) -> None:
    """Make these modules take their task's part of task tensors, and return that part.

    Args:
        branches: The modules; each is called in a loop over the tasks.
        selection: That of the network that they are part of.
    """
    for branch in branches:
        if isinstance(branch, _CONTAINERS):  # never called
            keep_to_their_task(list(branch.children()), selection)
            continue
        vars(branch)[_SELECTION] = selection
        branch.register_forward_pre_hook(_take_part, with_kwargs=True)
        branch.register_forward_hook(_mark)


def _take_part(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    task_tensors = task_tensors_in((args, kwargs))
    if not task_tensors:
        return None
    place = vars(module)[_SELECTION].chosen_place
    if place is None and any(each.task is None for each in task_tensors):
        raise ReconError(
            f"{type(module).__name__} is one task's part of the network, but it was called with "
            "all tasks' values outside of a loop over the tasks, where it is not known which task "
            "it is called for. Call it inside `for task in self.task_name:`, or leave the layers "
            "before it shared."
        )
    return pick(args, place or 0), pick(kwargs, place or 0)


def _mark(module: nn.Module, _: Any, output: Any) -> Any:
    place = vars(module)[_SELECTION].chosen_place
    if place is None:
        return output
    return mapped(
        output,
        lambda leaf: (
            TaskTensor([leaf], place)
            if isinstance(leaf, Tensor) and type(leaf) is not TaskTensor
            else leaf
        ),
    )
