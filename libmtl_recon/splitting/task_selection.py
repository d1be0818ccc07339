"""The choice of the tasks that a split network computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from libmtl_recon.splitting.spec import SplitSpec

from libmtl_recon.splitting.attention import evaluate_as_trained


class _Choice(NamedTuple):
    task: str | None = None
    in_loops: bool = False
    progress: Any = None


_NONE = _Choice()


class _Choices(local):
    """The tasks that this thread has chosen in each network; all if there is no entry."""

    def __init__(self) -> None:
        self.of: dict[TaskSelection, _Choice] = {}


class TaskSelection:
    """The tasks that a split network computes at the moment; shared by all its split modules.

    Each thread has its own choice; by default it computes all tasks.

    Args:
        tasks: All tasks, in the order of a task tensor's parts.
        attends: Whether the network has attention modules. Copies of it, also those loaded from a
            file, then evaluate them as in training.

    Attributes:
        spec: The specification of the split; None before the split.
    """

    spec: SplitSpec | None = None

    def __init__(self, tasks: Iterable[str], attends: bool = False) -> None:
        self.tasks = tuple(tasks)
        self.attends = attends
        if attends:
            evaluate_as_trained()

    @property
    def chosen(self) -> str | None:
        """The only task to compute, if there is one."""
        return _choices.of.get(self, _NONE).task

    @property
    def active(self) -> tuple[str, ...]:
        """The tasks to compute."""
        chosen = self.chosen
        return self.tasks if chosen is None else (chosen,)

    @property
    def chosen_place(self) -> int | None:
        """The position of the only task to compute among all tasks."""
        chosen = self.chosen
        return None if chosen is None else self.tasks.index(chosen)

    @contextmanager
    def only(self, task: str) -> Iterator[None]:
        """Compute one task in this thread inside the ``with`` block."""
        before = self.chosen
        self.choose(task)
        try:
            yield
        finally:
            self.choose(before)

    def choose(self, task: str | None) -> None:
        """Compute only this task in this thread from now on, or all tasks."""
        self._note(_choices.of.get(self, _NONE)._replace(task=task))

    @property
    def one_by_one(self) -> bool:
        """Return whether loops over the tasks choose each in turn, in this thread."""
        choice = _choices.of.get(self, _NONE)
        return choice.in_loops and choice.task is None

    @contextmanager
    def choosing_in_loops(self) -> Iterator[None]:
        """Make loops over the tasks choose each in turn inside the ``with`` block."""
        before = _choices.of.get(self, _NONE)
        self._note(before._replace(in_loops=True))
        try:
            yield
        finally:
            self._note(before)  # a loop may have been left in the middle

    @property
    def progress(self) -> Any:
        """The progress of this thread in a planned pass; None outside of one."""
        return _choices.of.get(self, _NONE).progress

    @progress.setter
    def progress(self, value: Any) -> None:
        self._note(_choices.of.get(self, _NONE)._replace(progress=value))

    def _note(self, choice: _Choice) -> None:
        if choice == _NONE:
            _choices.of.pop(self, None)
        else:
            _choices.of[self] = choice

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...], bool], dict[str, Any]]:
        return TaskSelection, (self.tasks, self.attends), {"spec": self.spec}


_choices = _Choices()


def all_choices() -> Mapping[TaskSelection, _Choice]:
    """Return this thread's current choices in all networks."""
    return dict(_choices.of)


@contextmanager
def choosing(choices: Mapping[TaskSelection, _Choice]) -> Iterator[None]:
    """Apply choices returned by :func:`all_choices` in this thread inside the ``with`` block."""
    before = _choices.of
    _choices.of = dict(choices)
    try:
        yield
    finally:
        _choices.of = before
