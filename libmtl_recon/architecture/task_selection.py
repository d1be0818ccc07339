"""Which tasks a split network computes at the moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import local


class TaskSelection:
    """Which tasks a split network computes at the moment; shared by all its split modules.

    Each thread has its own choice, and computes all tasks unless it chose.

    Args:
        tasks: All tasks, in the order of a bundle's parts.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        self.tasks = tuple(tasks)
        self._local = local()

    @property
    def chosen(self) -> str | None:
        """The only task wanted, if there is one."""
        return getattr(self._local, "chosen", None)

    @property
    def active(self) -> tuple[str, ...]:
        """The tasks to compute."""
        chosen = self.chosen
        return self.tasks if chosen is None else (chosen,)

    @property
    def chosen_place(self) -> int | None:
        """The place of the only task wanted among all tasks."""
        chosen = self.chosen
        return None if chosen is None else self.tasks.index(chosen)

    @contextmanager
    def only(self, task: str) -> Iterator[None]:
        """Inside the ``with`` block this thread computes one task."""
        before = self.chosen
        self.choose(task)
        try:
            yield
        finally:
            self.choose(before)

    def choose(self, task: str | None) -> None:
        """Compute this task alone in this thread from now on, or all of them."""
        self._local.chosen = task

    @property
    def one_by_one(self) -> bool:
        """Whether loops over the tasks choose each in turn, in this thread."""
        return getattr(self._local, "one_by_one", False) and self.chosen is None

    @contextmanager
    def choosing_in_loops(self) -> Iterator[None]:
        """Inside the ``with`` block loops over the tasks choose each in turn."""
        chosen, before = self.chosen, getattr(self._local, "one_by_one", False)
        self._local.one_by_one = True
        try:
            yield
        finally:
            self._local.one_by_one = before
            self.choose(chosen)  # a loop may have been left in the middle

    def __reduce__(self) -> tuple[type, tuple[tuple[str, ...]]]:
        return TaskSelection, (self.tasks,)
