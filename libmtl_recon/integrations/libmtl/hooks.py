"""What a run can see of LibMTL's Trainer: observers, told at five moments.

LibMTL has no callbacks. Its Trainer and its meter are wrapped once, at registration; as long as
nobody observes, the wrappers change nothing.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from libmtl_recon.errors import ReconError, UsageError


@dataclass(frozen=True)
class Measurement:
    """What LibMTL's meter found in one pass over the data.

    Attributes:
        epoch: Counted from 0; None where the script evaluates outside of training.
        mode: Which data the pass went over.
        losses: The mean loss of each task.
        metrics: ``metrics[task][metric]``, with LibMTL's names.
    """

    epoch: int | None
    mode: Literal["train", "val", "test"]
    losses: dict[str, float]
    metrics: dict[str, dict[str, float]]


class StopRun(BaseException):
    """Raised by a hook to end the script early; the run counts as a success."""


class TrainerHook:
    """Is told what happens in LibMTL's Trainer; does nothing unless a method is overridden."""

    def choose_tasks(self, tasks: tuple[str, ...]) -> tuple[str, ...]:
        """Say which of the tasks to train, before the model is built. Default: all."""
        return tasks

    def built(self, trainer: Any) -> None:
        """The trainer's model and optimiser exist."""

    def training(self, trainer: Any) -> None:
        """``Trainer.train`` begins, for the first time or again."""

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """A pass over the training, validation or test data has ended."""

    def trained(self, trainer: Any) -> None:
        """``Trainer.train`` has returned."""


_observers: list[TrainerHook] = []
_trainer_of_meter: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_announced: weakref.WeakSet[Any] = weakref.WeakSet()


@contextmanager
def observe(*observers: TrainerHook) -> Iterator[None]:
    """Have these observers told of every Trainer, inside the ``with`` block."""
    _observers.extend(observers)
    try:
        yield
    finally:
        for observer in observers:
            _observers.remove(observer)


def wrap_trainer(libmtl: ModuleType) -> None:
    """Make LibMTL's Trainer and meter tell the observers."""
    trainer_class = libmtl.Trainer
    meter_class = libmtl._record._PerformanceMeter
    build, train, display = trainer_class.__init__, trainer_class.train, meter_class.display
    signature = inspect.signature(build)

    @functools.wraps(build)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # is set as __init__
        bound = signature.bind(self, *args, **kwargs)
        _filter_tasks(bound.arguments)
        build(*bound.args, **bound.kwargs)
        _announce(self)

    @functools.wraps(train)
    def wrapped_train(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A script's own Trainer may build all itself, or have a meter of its own.
        if self not in _announced:
            _refuse_unfiltered(self)
        _announce(self)
        for observer in list(_observers):
            observer.training(self)
        result = train(self, *args, **kwargs)
        for observer in list(_observers):
            observer.trained(self)
        return result

    @functools.wraps(display)
    def wrapped_display(self: Any, mode: Any, epoch: int | None) -> Any:
        result = display(self, mode=mode, epoch=epoch)
        trainer = _trainer_of_meter.get(self, lambda: None)()
        # Who does not ask for numbers must not fail by them either.
        asking = [o for o in _observers if type(o).measured is not TrainerHook.measured]
        if trainer is not None and asking:
            measurement = _read(self, mode, epoch)
            for observer in asking:
                observer.measured(trainer, measurement)
        return result

    trainer_class.__init__ = __init__
    trainer_class.train = wrapped_train
    meter_class.display = wrapped_display


def _announce(trainer: Any) -> None:
    """Tell of a Trainer, once; its meter may be another each time."""
    _trainer_of_meter[trainer.meter] = weakref.ref(trainer)
    if trainer not in _announced:
        _announced.add(trainer)
        for observer in list(_observers):
            observer.built(trainer)


def _refuse_unfiltered(trainer: Any) -> None:
    """Refuse to train all tasks where only some are wanted, which is seen to in ``__init__``."""
    tasks = tuple(trainer.task_name)
    if any(observer.choose_tasks(tasks) != tasks for observer in list(_observers)):
        raise ReconError(
            f"The class {type(trainer).__name__} does not call LibMTL's Trainer.__init__, so no "
            "task of it can be trained alone. Call super().__init__(...) in it."
        )


def _filter_tasks(arguments: dict[str, Any]) -> None:
    """Leave only the chosen tasks in a Trainer's ``task_dict`` and ``decoders``."""
    tasks = tuple(arguments["task_dict"])
    chosen = tasks
    for observer in list(_observers):
        chosen = observer.choose_tasks(chosen)
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
                f"but has {len(names)} names ({', '.join(names)}) for {len(values)} scores. Give "
                "it one name a score, in the order of score_fun."
            )
        metrics[task] = {name: float(value) for name, value in zip(names, values, strict=True)}
    return Measurement(epoch, mode, losses, metrics)
