"""Make layers of any network task-specific, without changing its code."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn
from torch.fx import GraphModule

from libmtl_recon.conflicts.layers import plain_name
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.splitting.arguments import checked_arguments, checked_module, checked_task
from libmtl_recon.splitting.attention import evaluate_as_trained
from libmtl_recon.splitting.compile_compat import run_uncompiled, uncompiled
from libmtl_recon.splitting.layer_lookup import checked_tasks, find_layers, tied_parameters
from libmtl_recon.splitting.norm_statistics import follow_statistics
from libmtl_recon.splitting.per_task_output import keep_entries_apart
from libmtl_recon.splitting.reinit import refuse_uninitializable, reinitialize
from libmtl_recon.splitting.replacements import (
    begin_per_task_calls,
    end_per_task_calls,
    per_task_calls,
)
from libmtl_recon.splitting.spec import BN, INIT, SplitSpec, check_choice
from libmtl_recon.splitting.spec_storage import keep_in_state_dicts
from libmtl_recon.splitting.state import accept_plain_state
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import (
    Copies,
    TaskSpecific,
    TaskValues,
    make_task_specific,
    values_of,
)
from libmtl_recon.splitting.task_tensor import pick, task_tensors_in
from libmtl_recon.splitting.ties import names_of_parameters, refuse_untold
from libmtl_recon.splitting.unassigned import Origin, Output, entries_by_place

_SELECTION = "_task_selection"


def split_layers(
    module: nn.Module,
    layers: Iterable[str],
    tasks: Sequence[str],
    *,
    bn: Literal["per_task", "mixed"] = "per_task",
    init: Literal["copy", "fresh"] = "copy",
    per_task_output: bool = False,
) -> nn.Module:
    """Give each task its own copy of some layers, in place.

    Create the optimiser after the split, since the copies are new parameters. The split network
    returns a :class:`~libmtl_recon.TaskTensor`: ``out["digit"]`` is the output of one task,
    ``out.by_task()`` returns all of them by name, and ``out.parts`` has them in the order of
    ``tasks``. (An output that does not depend on a split layer is a plain tensor. For an output
    that is a tuple, list or dict, use :func:`~libmtl_recon.by_task`.) Iterating over the output
    iterates over its rows, as for any tensor. Layers before the first split run once, the others
    once per task. If other modules hold the same parameter (an output layer tied to an embedding),
    it is split in all of them. A state dict of the network before its split can still be loaded:
    each task gets a copy.

    If the network has PyTorch's attention modules, PyTorch's fast path for them, which returns
    zeros at padded positions, is switched off in this process
    (``torch.backends.mha.set_fastpath_enabled``), so that evaluation computes what training
    computes. Nothing else is changed outside of the network; while it runs,
    :func:`~libmtl_recon.splitting.per_task_calls` is in effect.

    Args:
        module: Any network whose operations are torch functions.
        layers: Paths of modules that hold parameters of their own, e.g. ``layer1.0.bn1``; and
            ``(root)`` for those that the network holds itself, such as a class token.
        tasks: The tasks' names, which appear in the state dict's keys.
        bn: The running statistics of batch norms that stay shared, but whose input depends on a
            split layer: one set per task (``per_task``), or one buffer that each task updates in
            turn, as in the program of the Recon paper's authors (``mixed``).
        init: Whether the copies start equal (``copy``), or each is initialised by the layer's own
            ``reset_parameters`` (``fresh``).
        per_task_output: Whether the network returns one entry per task: a list or tuple in the
            order of ``tasks``, or a dict by their names. Entry t is then computed for task t only,
            and returned as a plain value; under :func:`only_task` the others are None. The first
            call with inputs of new shapes runs the network once more, to find out which layer is
            used for which entry. If False, an output that is a list (such as a feature pyramid) is
            computed for each task as a whole.

    Returns:
        The module itself.

    Raises:
        UsageError: An argument has the wrong type; no layer is given, or one is given twice; a
            layer does not exist, holds no parameters, shares them with another layer that is not
            chosen, or cannot be initialised anew; or there are fewer than two tasks, two have the
            same name, or a name cannot be the name of a module.
        ReconError: The network was split already, or is compiled, by ``torch.jit`` or
            ``torch.compile``.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> split_layers(net, ["1"], ["left", "right"])(torch.ones(3, 4))["left"].shape
        torch.Size([3, 2])
    """
    module, layers, tasks = checked_arguments(module, layers, tasks)
    selection = TaskSelection(checked_tasks(tasks))
    split_beside(module, layers, selection, bn=bn, init=init)
    if per_task_output:
        keep_entries_apart(module, selection)
    return module


def split_beside(
    module: nn.Module,
    layers: Iterable[str],
    selection: TaskSelection,
    *,
    bn: str = "per_task",
    init: str = "copy",
    besides: Collection[nn.Module] = (),
    copies: Copies | None = None,
) -> nn.Module:
    """Split a network with parts that already belong to one task.

    Args:
        module: As for :func:`split_layers`.
        layers: As for :func:`split_layers`.
        selection: The choice of tasks.
        bn: As for :func:`split_layers`.
        init: As for :func:`split_layers`.
        besides: The modules that belong to one task, which are not changed.
        copies: A dict to which the copies of each parameter are added.
    """
    check_choice("bn", bn, BN)
    check_choice("init", init, INIT)
    if any(isinstance(part, TaskSpecific) for part in module.modules()):
        raise ReconError(
            "This network is already split; a second split is not supported. Build the network "
            "again and split all layers at once."
        )
    owners = find_layers(module, list(dict.fromkeys(layers)))
    refuse_untold(module, names_of_parameters(owners))
    tied = tied_parameters(module, owners, besides)
    if init == "fresh":
        refuse_uninitializable(owners)
    copies = {} if copies is None else copies
    for owner in owners.values():
        parameters = [p for p, value in owner._parameters.items() if value is not None]
        buffers = [b for b, value in owner._buffers.items() if value is not None]
        make_task_specific(owner, [*parameters, *buffers], selection, copies)
        accept_plain_state(owner, selection)
    for holder, names in tied:
        make_task_specific(holder, names, selection, copies)
        accept_plain_state(holder, selection)
    if init == "fresh":
        for name, owner in owners.items():
            reinitialize(name, owner)
    follow_statistics(module, selection, mixed=bn == "mixed", besides=besides)
    selection.attends = evaluate_as_trained(module)
    run_uncompiled(module)
    mark_split(module, selection)
    selection.spec = SplitSpec(tuple(owners), selection.tasks, bn, init)
    keep_in_state_dicts(module, selection)
    return module


@contextmanager
def only_task(module: nn.Module, task: str) -> Iterator[nn.Module]:
    """Compute only one task's branch of the network inside the ``with`` block.

    The network then returns plain tensors, those of the task. This applies to the calling thread,
    also to code that it runs inside the network's own modules.

    Args:
        module: A split network.
        task: The task's name.

    Raises:
        UsageError: ``module`` is not a network, is not split, or does not have this task.
    """
    selection = selection_of(module)
    with selection.only(checked_task(task, selection.tasks)), per_task_calls():
        yield module


def is_split(module: nn.Module) -> bool:
    """Return whether :func:`split_layers` was applied to this network."""
    return _find_selection(checked_module(module)) is not None


def shared_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that all tasks share, in network order; all if nothing is split."""
    own = {
        id(parameter)
        for values in checked_module(module).modules()
        if isinstance(values, TaskValues)
        for parameter in values.parameters()
    }
    return [parameter for parameter in module.parameters() if id(parameter) not in own]


def task_parameters(module: nn.Module, task: str) -> dict[str, Tensor]:
    """Return one task's values of the split layers, under their names in the plain network.

    Raises:
        UsageError: The network was not split for this task.
    """
    checked_task(task, selection_of(module).tasks)
    return {
        plain_name(f"{name}.{key}" if name else key): value
        for name, owner in module.named_modules()
        for key, value in values_of(owner, task).items()
    }


def selection_of(module: nn.Module) -> TaskSelection:
    """Return the object with which a split network chooses its tasks.

    Raises:
        UsageError: The network was not split.
    """
    found = _find_selection(checked_module(module))
    if found is None:
        raise UsageError(
            "module",
            "must be a network that split_layers has split",
            type(module).__name__,
            "Call split_layers(module, layers, tasks) first.",
        )
    return found


def mark_split(module: nn.Module, selection: TaskSelection) -> None:
    """Register a network for :func:`only_task`.

    Args:
        module: The split network, or a module that contains it.
        selection: The object with which the task is chosen.
    """
    vars(module)[_SELECTION] = selection
    if isinstance(module, GraphModule):  # whose forward is its class's own
        module.register_forward_pre_hook(begin_per_task_calls)
        module.register_forward_hook(end_per_task_calls, always_call=True)
    module.register_forward_hook(_unwrap_chosen)


def _find_selection(module: nn.Module) -> TaskSelection | None:
    module = uncompiled(module)
    if isinstance(module, GraphModule) and _unwrap_chosen not in module._forward_hooks.values():
        # Copying or pickling such a module leaves it its parts, but not its hooks.
        parts = [part for part in module.modules() if isinstance(part, TaskSpecific)]
        if parts:
            mark_split(module, parts[0]._selection)
    return vars(module).get(_SELECTION)


def _unwrap_chosen(module: nn.Module, _: Any, output: Any) -> Any:
    selection, task_tensors = selection_of(module), task_tensors_in(output)
    for each in task_tensors:
        each._tasks = each._tasks or selection.tasks
    if selection.chosen is None and task_tensors:
        _mark_entries(output, selection.tasks)
    return pick(output, 0) if selection.chosen is not None and task_tensors else output


def _mark_entries(output: Any, tasks: tuple[str, ...]) -> None:
    """Mark the task tensors in an output that has one entry per task with their entries."""
    whole = Output(tasks, named=isinstance(output, Mapping))
    for place, entry in enumerate(entries_by_place(output, tasks)):
        for each in task_tensors_in(entry):
            if each.task is None:
                each._origin = Origin(whole, frozenset({place}))
