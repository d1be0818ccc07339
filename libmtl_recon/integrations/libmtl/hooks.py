"""Hooks into LibMTL's Trainer, called at five moments of a run.

LibMTL has no callbacks. Without hooks its Trainer and meter work unchanged.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl.data_parallel.agreement import StopRun, of_first
from libmtl_recon.integrations.libmtl.wrapper import Call

__all__ = ["Measurement", "StopRun", "TrainerHook", "trainer_hooks"]


@dataclass(frozen=True)
class Measurement:
    """Results of LibMTL's meter for one pass over the data.

    Attributes:
        epoch: Counted from 0; None if the script evaluates outside of training.
        mode: The data of the pass.
        losses: The mean loss of each task.
        metrics: ``metrics[task][metric]``, with LibMTL's names.
    """

    epoch: int | None
    mode: Literal["train", "val", "test"]
    losses: dict[str, float]
    metrics: dict[str, dict[str, float]]


class TrainerHook:
    """Base class of hooks into LibMTL's Trainer; does nothing unless a method is overridden.

    Attributes:
        on_every_rank: Whether, under torchrun, the hook is called on each rank. By default it is
            called on rank 0 alone, and if it raises, the other ranks end as well.
    """

    on_every_rank: ClassVar[bool] = False

    def choose_tasks(self, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """Return the tasks to train, before the model is built. Default: all."""
        return tasks

    def built(self, trainer: Any) -> None:
        """Run when the trainer's model and optimiser exist."""

    def training(self, trainer: Any) -> None:
        """Run when ``Trainer.train`` begins, for the first time or again."""

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Run when a pass over the training, validation or test data has ended."""

    def trained(self, trainer: Any) -> None:
        """Run when ``Trainer.train`` has returned."""


_hooks: list[TrainerHook] = []
_trainer_of_meter: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_announced: weakref.WeakSet[Any] = weakref.WeakSet()


@contextmanager
def trainer_hooks(*hooks: TrainerHook) -> Iterator[None]:
    """Call these hooks for every Trainer inside the ``with`` block."""
    _hooks.extend(hooks)
    try:
        yield
    finally:
        for hook in hooks:
            _hooks.remove(hook)


def choose_tasks(call: Call) -> None:
    """Keep only the tasks that the hooks choose in a Trainer's arguments."""
    _filter_tasks(call.arguments)


def tell_built(call: Call) -> None:
    """Call the hooks for a Trainer that was built."""
    _announce(call.owner)


def tell_training(call: Call) -> None:
    """Call the hooks for a Trainer that begins to train."""
    trainer = call.owner
    # A script's own Trainer may build everything itself, or have its own meter.
    if trainer not in _announced:
        _refuse_unfiltered(trainer)
    _announce(trainer)
    _tell(TrainerHook.training, trainer)


def tell_trained(call: Call) -> None:
    """Call the hooks for a Trainer that has trained."""
    _tell(TrainerHook.trained, call.owner)


def tell_measured(call: Call) -> None:
    """Call the hooks with the results of a Trainer's meter."""
    meter = call.owner
    trainer = _trainer_of_meter.get(meter, lambda: None)()
    # Unless a hook uses the results, a failure to read them must not matter.
    asking = [hook for hook in _hooks if type(hook).measured is not TrainerHook.measured]
    if trainer is not None and asking:
        measurement = _read(meter, call.arguments["mode"], call.arguments["epoch"])
        _tell(TrainerHook.measured, trainer, measurement)


def _announce(trainer: Any) -> None:
    """Announce a Trainer once; its meter may be a different one each time."""
    _trainer_of_meter[trainer.meter] = weakref.ref(trainer)
    if trainer not in _announced:
        _announced.add(trainer)
        _tell(TrainerHook.built, trainer)


def _tell(method: Callable[..., None], *args: Any) -> None:
    """Call all hooks that override this method."""
    name = method.__name__
    for hook in list(_hooks):
        if getattr(type(hook), name) is method:
            continue
        tell = functools.partial(getattr(hook, name), *args)
        if hook.on_every_rank:
            tell()
        else:
            of_first(tell)


def _refuse_unfiltered(trainer: Any) -> None:
    """Refuse to train all tasks where only some are wanted, which ``__init__`` selects."""
    tasks = tuple(trainer.task_name)
    if any(hook.choose_tasks(tasks) != tasks for hook in list(_hooks)):
        raise ReconError(
            f"The class {type(trainer).__name__} does not call LibMTL's Trainer.__init__, so no "
            "task of it can be trained alone. Call super().__init__(...) in it."
        )


def _filter_tasks(arguments: dict[str, Any]) -> None:
    """Keep only the chosen tasks in a Trainer's ``task_dict`` and ``decoders``."""
    tasks = tuple(arguments["task_dict"])
    chosen = tasks
    for hook in list(_hooks):
        chosen = hook.choose_tasks(chosen)
    if chosen == tasks:
        return
    unknown = [task for task in chosen if task not in tasks]
    if unknown or not chosen:
        raise UsageError(
            "the task to train",
            f"must be one of the script's tasks ({', '.join(tasks)})",
            ", ".join(unknown) or None,
            "Name one of these.",
        )
    from torch import nn

    decoders = arguments["decoders"]
    kept = {task: decoders[task] for task in chosen}
    arguments["task_dict"] = {task: arguments["task_dict"][task] for task in chosen}
    arguments["decoders"] = nn.ModuleDict(kept) if isinstance(decoders, nn.ModuleDict) else kept


def _read(meter: Any, mode: Any, epoch: int | None) -> Measurement:
    losses = {
        task: float(loss) for task, loss in zip(meter.task_name, meter.loss_item, strict=True)
    }
    metrics = {}
    for task in meter.task_name:
        names, values = meter.task_dict[task]["metrics"], meter.results[task]
        if len(names) != len(values):
            raise ReconError(
                f"task_dict[{task!r}]['metrics'] must name each score that its metrics_fn returns, "
                f"but has {len(names)} names ({', '.join(names)}) for {len(values)} scores. List "
                "one name per score, in the order of score_fun."
            )
        metrics[task] = {name: float(value) for name, value in zip(names, values, strict=True)}
    return Measurement(epoch, mode, losses, metrics)
