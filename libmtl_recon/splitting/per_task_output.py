"""Networks that return one representation per task: entry t is computed for task t only.

Otherwise, each layer behind a split would run once per task for each entry, T² times in total, and
the statistics of norms would include other tasks' entries. The calls that belong to each entry are
determined once, by a pass that follows the tensors; later passes use this plan.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.buffer_rollback import Kept, put_back, set_aside, undone_unless
from libmtl_recon.splitting.call_tracking import Follower
from libmtl_recon.splitting.compile_compat import OwnForward, run_uncompiled, run_untraced
from libmtl_recon.splitting.entries import diagonal, entries_of, looks_per_task, mixed
from libmtl_recon.splitting.pytree import LEAVES, leaves, mapped
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_specific import Tasks, TaskValues
from libmtl_recon.splitting.task_tensor import TaskTensor

_ENTRIES = "_entries"
_STATION = "_station"
_PLANS_KEPT = 64


class Call(NamedTuple):
    """A module's call in a pass.

    Attributes:
        number: The number of the module.
        tasks: The positions of the tasks whose entries depend on the call; None for all.
    """

    number: int
    tasks: frozenset[int] | None


@dataclass(frozen=True)
class Station:
    """The state of a module in such a network: its number, and the choice of tasks."""

    selection: TaskSelection
    number: int


class _Frame(NamedTuple):
    """A call that has begun: the task chosen before it, and what to restore after it."""

    before: str | None
    kept: Kept = ()


class _Progress(NamedTuple):
    """The progress of a pass; immutable, so that a recomputation can start at the same point."""

    plan: tuple[Call, ...]
    position: int = 0
    frames: tuple[_Frame, ...] = ()


@dataclass(eq=False)
class Entries:
    """The assignment of a network's calls to its entries.

    Attributes:
        selection: The network's choice of tasks.
        per_task: Whether the network returns one entry per task; None before its first call.
        plans: The plans, by everything that may change which layers are called.
    """

    selection: TaskSelection
    per_task: bool = False
    plans: dict[Any, tuple[Call, ...]] = field(default_factory=dict)


def keep_entries_apart(
    network: nn.Module, selection: TaskSelection, *, declared: bool = True
) -> None:
    """Make a split network compute entry t of its output for task t only.

    Args:
        network: A split network that returns a list or tuple of T entries, in the order of the
            tasks, or a dict with one entry per task.
        selection: The network's choice of tasks.
        declared: Whether the caller has declared this. Otherwise, the first call determines it: a
            list with one entry per task, or a dict with the tasks as keys, is treated in this way.
    """
    if isinstance(network, GraphModule):
        if declared:
            raise ReconError(
                "A torch.fx.GraphModule that returns one entry per task cannot be split. Split the "
                "module that it was traced from."
            )
        return
    vars(network)[_ENTRIES] = Entries(selection)
    vars(network)["forward"] = OwnForward(_forward, network)
    if declared:
        _watch(network, selection)


def _watch(network: nn.Module, selection: TaskSelection) -> None:
    """Make a network's modules look up, in each call, for which entry it is made."""
    vars(network)[_ENTRIES].per_task = True
    for number, module in enumerate(network.modules()):
        if module is network or isinstance(module, TaskValues | Tasks):
            continue
        vars(module)[_STATION] = Station(selection, number)
        module.register_forward_pre_hook(_enter, with_kwargs=True)
        module.register_forward_hook(_leave, always_call=True)


def _forward(network: Any, *args: Any, **kwargs: Any) -> Any:
    entries: Entries = vars(network)[_ENTRIES]
    run = functools.partial(run_untraced, network, *args, **kwargs)
    if not entries.per_task:
        learnt: list[bool] = []
        with undone_unless(network, lambda: not learnt[0]):
            output = run()
            learnt.append(looks_per_task(output, entries.selection.tasks))
        if not learnt[0]:
            del vars(network)[_ENTRIES], vars(network)["forward"]
            run_uncompiled(network)
            return output
        _watch(network, entries.selection)
    key = _way_through(network, args, kwargs)
    plan = entries.plans.get(key)
    if plan is None:
        plan = _explored(network, entries.selection, run)
        for old in list(entries.plans)[: len(entries.plans) - _PLANS_KEPT]:
            del entries.plans[old]
        entries.plans[key] = plan
    with _going_by(entries.selection, plan):
        output = run()
        if entries.selection.progress.position != len(plan):
            raise _lost()
    return diagonal(output, entries.selection)


def _explored(
    network: nn.Module, selection: TaskSelection, run: Callable[[], Any]
) -> tuple[Call, ...]:
    """Run the network for one task, undo the changes, and record the calls for each entry."""
    with undone_unless(network, lambda: False), selection.only(selection.tasks[0]):
        known = [tensor for module in network.modules() for tensor in _own_tensors(module)]
        follower = Follower(known)
        before, selection.progress = selection.progress, follower
        try:
            with follower:
                output = run()
        finally:
            selection.progress = before
    served = [follower.behind(entry) for entry in entries_of(output, selection.tasks)]
    plan: list[Call] = []
    for index, (number, outer) in enumerate(follower.calls):
        bit = 1 << index
        tasks = frozenset(t for t, bits in enumerate(served) if bit & (bits | follower.steering))
        if not tasks and outer is not None:  # like the call that it is part of
            tasks = plan[outer].tasks or frozenset()
        everyone = len(tasks) in (0, len(served))
        plan.append(Call(number, None if everyone else tasks))
    return tuple(plan)


def _own_tensors(module: nn.Module) -> list[Tensor]:
    held = [*module._parameters.values(), *module._buffers.values()]
    return [tensor for tensor in held if tensor is not None]


def _way_through(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return everything that may change how a network calls its layers."""
    # Of the modules that were there before the first norm was split.
    training = tuple(m.training for m in network.modules() if _STATION in vars(m))
    given = tuple(
        (tuple(leaf.shape), leaf.dtype)
        if isinstance(leaf, Tensor)
        else leaf
        if isinstance(leaf, LEAVES)
        else type(leaf)
        for leaf in leaves((args, kwargs))
    )
    return (
        network.training,
        len(training),
        hash(training),
        torch.is_grad_enabled(),
        tuple(sorted(kwargs)),
        given,
    )


@contextmanager
def _going_by(selection: TaskSelection, plan: tuple[Call, ...]) -> Iterator[None]:
    before, chosen = selection.progress, selection.chosen
    selection.progress = _Progress(plan)
    try:
        yield
    finally:
        selection.choose(chosen)
        selection.progress = before


def _enter(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    station: Station = vars(module)[_STATION]
    selection = station.selection
    progress = selection.progress
    if progress is None:
        return None
    if isinstance(progress, Follower):
        progress.enter(station.number)
        return None
    at = progress.position
    if at == len(progress.plan) or progress.plan[at].number != station.number:
        raise _lost()
    tasks, chosen = progress.plan[at].tasks, selection.chosen
    picked: int | None = None
    kept: Kept = ()
    if tasks is not None:
        if chosen is None and len(tasks) == 1:
            (picked,) = tasks
        else:
            idle = [
                task
                for place, task in enumerate(selection.tasks)
                if place not in tasks and task in selection.active
            ]
            kept = set_aside(module, idle)
    frames = (*progress.frames, _Frame(chosen, kept))
    selection.progress = _Progress(progress.plan, at + 1, frames)
    if picked is None:
        return None
    selection.choose(selection.tasks[picked])
    take = functools.partial(_alone, picked)
    return mapped(args, take), mapped(kwargs, take)


def _leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    selection = vars(module)[_STATION].selection
    progress = selection.progress
    if isinstance(progress, Follower):
        progress.leave(args, output)
    elif progress is not None and progress.frames:
        frame = progress.frames[-1]
        selection.progress = progress._replace(frames=progress.frames[:-1])
        selection.choose(frame.before)
        put_back(frame.kept)


def _alone(place: int, leaf: Any) -> Any:
    """Return one task's part of a task tensor, marked with the task."""
    if type(leaf) is not TaskTensor or leaf.task == place:
        return leaf
    if leaf.task is not None:
        raise mixed()
    return TaskTensor([leaf.parts[place]], place)


def entries_apart(network: nn.Module | None) -> bool | None:
    """Return whether a split network returns one entry per task; None before its first call."""
    entries = None if network is None else vars(network).get(_ENTRIES)
    return False if entries is None else entries.per_task or None


def is_per_task(network: nn.Module | None) -> bool:
    """Return whether a split network is known to return one entry per task."""
    entries = None if network is None else vars(network).get(_ENTRIES)
    return entries is not None and entries.per_task


def _lost() -> ReconError:
    return ReconError(
        "The network called its layers differently than in an earlier call with inputs of the "
        "same shapes, so the layers cannot be assigned to the tasks' entries. A network that "
        "returns one entry per task must not choose its layers at random or by values."
    )
