"""Networks that return one representation per task: entry t is computed for task t alone.

Behind a split each layer would run once a task for each entry, T times T in all, and norms would
take in what other tasks' entries are made of. Which call of a module serves which entry is found
out once, by a pass that follows the tensors; later passes go by that plan.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from libmtl_recon.architecture.bundle import Bundle
from libmtl_recon.architecture.compiled import _out_of_sight, run_uncompiled
from libmtl_recon.architecture.following import Follower
from libmtl_recon.architecture.nested import LEAVES, leaves, mapped, updated
from libmtl_recon.architecture.task_selection import TaskSelection
from libmtl_recon.architecture.task_specific import CHILD, Tasks, TaskSpecific, TaskValues
from libmtl_recon.errors import ReconError

_ENTRIES = "_entries"
_STATION = "_station"
_PLANS_KEPT = 64


class Call(NamedTuple):
    """A module's call in a pass.

    Attributes:
        number: The module's.
        tasks: The places of the tasks whose entries it serves; None for all.
    """

    number: int
    tasks: frozenset[int] | None


@dataclass(frozen=True)
class Station:
    """What a module of such a network knows: its number, and who chooses its tasks."""

    selection: TaskSelection
    number: int


# Tables of buffers, and what stands in them by a name.
_Kept = tuple[tuple[dict[str, Any], str, Tensor], ...]


class _Frame(NamedTuple):
    """A call that has begun: the task chosen before it, and what to put back after it."""

    before: str | None
    kept: _Kept = ()


class _Progress(NamedTuple):
    """Where a pass has come to; immutable, so that a recomputation begins where it was."""

    plan: tuple[Call, ...]
    position: int = 0
    frames: tuple[_Frame, ...] = ()


@dataclass(eq=False)
class Entries:
    """How a network's entries are kept apart.

    Attributes:
        selection: The network's.
        per_task: Whether it is known to return one entry per task; its first call tells.
        plans: By what may change the way through the network.
    """

    selection: TaskSelection
    per_task: bool = False
    plans: dict[Any, tuple[Call, ...]] = field(default_factory=dict)


def keep_entries_apart(
    network: nn.Module, selection: TaskSelection, *, declared: bool = True
) -> None:
    """Have a split network compute entry t of what it returns for task t alone.

    Args:
        network: It was split. It returns a list or tuple of T entries, in the order of the tasks,
            or a dict with one for each task.
        selection: The network's.
        declared: It is known to. Else its first call tells: a list with an entry for each task,
            or a dict of the tasks, is taken for such.
    """
    if isinstance(network, GraphModule):
        if declared:
            raise ReconError(
                "A torch.fx.GraphModule that returns one entry per task cannot be split. Split the "
                "module that it was traced from."
            )
        return
    vars(network)[_ENTRIES] = Entries(selection)
    vars(network)["forward"] = _OfNetwork(_forward, network)
    if declared:
        _watch(network, selection)


def _watch(network: nn.Module, selection: TaskSelection) -> None:
    """Have a network's modules ask, in each call, whose entry it serves."""
    vars(network)[_ENTRIES].per_task = True
    for number, module in enumerate(network.modules()):
        if module is network or isinstance(module, TaskValues | Tasks):
            continue
        vars(module)[_STATION] = Station(selection, number)
        module.register_forward_pre_hook(_enter, with_kwargs=True)
        module.register_forward_hook(_leave, always_call=True)


class _OfNetwork(functools.partial[Any]):
    """A network's own ``forward``; unlike a bound method it is pickled as what it is."""


def _forward(network: Any, *args: Any, **kwargs: Any) -> Any:
    entries: Entries = vars(network)[_ENTRIES]
    run = functools.partial(_out_of_sight, network, *args, **kwargs)
    if not entries.per_task:
        learnt: list[bool] = []
        with _undone_unless(network, lambda: not learnt[0]):
            output = run()
            learnt.append(_looks_per_task(output, entries.selection.tasks))
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
    return _diagonal(output, entries.selection)


def _looks_per_task(output: Any, tasks: tuple[str, ...]) -> bool:
    """Whether LibMTL, or its decoders, would take an encoder's output apart by task."""
    if type(output) is dict:
        return set(output) == set(tasks)
    return isinstance(output, list) and len(output) >= len(tasks)


def entries_of(output: Any, tasks: tuple[str, ...]) -> list[Any]:
    """The tasks' entries in what a network returns, in the tasks' order.

    Raises:
        ReconError: It is no list or tuple with an entry for each task, and no dict of them.
    """
    if isinstance(output, Mapping) and set(output) == set(tasks):
        return [output[task] for task in tasks]
    if isinstance(output, list | tuple) and len(output) >= len(tasks):
        return list(output[: len(tasks)])
    found = f"{type(output).__name__}"
    if isinstance(output, Mapping | list | tuple):
        found += f" of {len(output)}"
    raise ReconError(
        "The network was said to return one entry per task, so a list or tuple of "
        f"{len(tasks)}, or a dict with the keys {', '.join(tasks)}; it returned a {found}."
    )


def _diagonal(output: Any, selection: TaskSelection) -> Any:
    """What a network returns, entry t as task t has it."""
    tasks, chosen = selection.tasks, selection.chosen_place
    found: list[Any] = []
    for place, entry in enumerate(entries_of(output, tasks)):
        wanted = chosen is None or place == chosen
        found.append(mapped(entry, functools.partial(_part, place)) if wanted else None)
    if isinstance(output, Mapping):
        return updated(output, dict(zip(tasks, found, strict=True)))
    if isinstance(output, list):
        return [*found, *output[len(tasks) :]]
    rest = output[len(tasks) :]
    return getattr(type(output), "_make", type(output))([*found, *rest])


def _part(place: int, leaf: Any) -> Any:
    if type(leaf) is not Bundle:
        return leaf
    if leaf.task not in (None, place):
        raise _mixed()
    return leaf.parts[place if leaf.task is None else 0]


def _explored(
    network: nn.Module, selection: TaskSelection, run: Callable[[], Any]
) -> tuple[Call, ...]:
    """Run the network for one task, undo what that changed, and see which call served what."""
    with _undone_unless(network, lambda: False), selection.only(selection.tasks[0]):
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
    """What may change the way that a call takes through a network."""
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
    kept: _Kept = ()
    if tasks is not None:
        if chosen is None and len(tasks) == 1:
            (picked,) = tasks
        else:
            idle = [
                task
                for place, task in enumerate(selection.tasks)
                if place not in tasks and task in selection.active
            ]
            kept = _set_aside(module, idle)
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
        _put_back(frame.kept)


def _alone(place: int, leaf: Any) -> Any:
    """One task's part of a bundle, which says whose it is."""
    if type(leaf) is not Bundle or leaf.task == place:
        return leaf
    if leaf.task is not None:
        raise _mixed()
    return Bundle([leaf.parts[place]], place)


def _set_aside(module: nn.Module, tasks: list[str]) -> _Kept:
    """Have a call go by copies of the statistics of tasks for which it does not count.

    What autograd keeps of a call must not be written to afterwards, so these stay as they are.
    """
    if not tasks or not module.training or not isinstance(module, TaskSpecific):
        return ()
    holders = [module._modules[CHILD]._modules[task] for task in tasks]  # type: ignore[union-attr]
    tables = [holder._buffers for holder in holders if holder is not None]
    if module._selection.chosen is not None:
        tables.append(module._buffers)  # those that stayed shared
    kept: _Kept = tuple(
        (table, name, tensor)
        for table in tables
        for name, tensor in table.items()
        if tensor is not None
    )
    for table, name, tensor in kept:
        table[name] = tensor.clone()
    return kept


def _put_back(kept: _Kept) -> None:
    for table, name, tensor in kept:
        table[name] = tensor


@contextmanager
def _undone_unless(network: nn.Module, stays: Callable[[], bool]) -> Iterator[None]:
    """Undo what a pass changes: the network's buffers, and torch's random state.

    The pass goes by copies of the buffers, since autograd may have kept them for earlier passes.
    """
    held = [
        (module, name, tensor)
        for module in network.modules()
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    with torch.inference_mode(False):
        copies = [tensor.clone() for _, _, tensor in held]
    for (module, name, _), copied in zip(held, copies, strict=True):
        module._buffers[name] = copied
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    state = torch.get_rng_state()
    kept = False
    try:
        yield
        kept = stays()
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for (module, name, tensor), copied in zip(held, copies, strict=True):
                if name not in module._buffers:  # it was split in the pass
                    for own in () if kept else module._modules[CHILD].children():  # type: ignore[union-attr]
                        own._buffers[name] = tensor.clone()
                elif not kept or module._buffers[name] is copied:
                    module._buffers[name] = tensor.copy_(copied) if kept else tensor
        if not kept:
            torch.set_rng_state(state)
            for device, own_state in states:
                torch.cuda.set_rng_state(own_state, device)


def only_entry(output: Any, task: str, tasks: Iterable[str]) -> Any:
    """What a decoder is given of a dict of the tasks' representations: its own."""
    keyed = type(output) is dict and set(output) == set(tasks)
    return _OwnEntry(task, output[task]) if keyed else output


class _OwnEntry(dict[str, Any]):
    def __init__(self, task: str, entry: Any) -> None:
        super().__init__({task: entry})
        self._task = task

    def __missing__(self, key: str) -> Any:
        raise ReconError(
            f"The decoder of task {self._task!r} reads {key!r} of what the encoder returns, which "
            "is a dict of the tasks, so that each entry is computed for its own task alone. Have "
            "the encoder return a tuple, all of which each task then computes for itself."
        )


def is_per_task(model: nn.Module) -> bool:
    """Whether the encoder of LibMTL's model is known to return one entry per task."""
    encoder = model._modules.get("encoder")
    entries = None if encoder is None else vars(encoder).get(_ENTRIES)
    return entries is not None and entries.per_task


def _mixed() -> ReconError:
    return ReconError(
        "An entry of what the network returns was made of values of another task's entry. Each "
        "must be computed for its own task alone; what the tasks have in common must be computed "
        "by torch functions that PyTorch's modes see."
    )


def _lost() -> ReconError:
    return ReconError(
        "The network took another way through its layers than in an earlier call with inputs of "
        "the same shapes, so it cannot be told which layer serves which task's entry. A network "
        "that returns one entry per task must not choose its layers at random or by values."
    )
