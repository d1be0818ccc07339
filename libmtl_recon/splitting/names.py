"""Names of tasks in values that differ between tasks, and the errors about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.texts import did_you_mean


class ByTask:
    """Access to a task tensor's parts by the tasks' names."""

    _task: int | None
    _tasks: tuple[str, ...] | None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors, one per task."""
        raise NotImplementedError

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """The names of the tasks of the parts, in order; None without names."""
        if self._tasks is None or self._task is None:
            return self._tasks
        return (self._tasks[self._task],)

    def by_task(self) -> dict[str, Tensor]:
        """Return each task's tensor, by its name, in the order of the tasks.

        Raises:
            ReconError: The task tensor was created without the tasks' names.
        """
        names = self.tasks
        if names is None:
            raise nameless()
        return dict(zip(names, self.parts, strict=True))

    def __getitem__(self, index: Any) -> Any:
        """Return a task's tensor, by its name; any other index is applied once per task.

        Raises:
            UsageError: There is no task with this name.
        """
        if isinstance(index, str):
            return self.parts[place_of(index, self._tasks, self._task)]
        refuse_names_in_index(index)
        return super().__getitem__(index)  # type: ignore[misc]  # the tensor's

    def __setitem__(self, index: Any, value: Any) -> None:
        refuse_names_in_index(index)
        super().__setitem__(index, value)  # type: ignore[misc]  # the tensor's


def place_of(task: str, tasks: Sequence[str] | None, only: int | None) -> int:
    """Return the position of a task's part among a value's parts.

    Args:
        task: The name of the task.
        tasks: All tasks, in their order; None if they have no names.
        only: If the value belongs to one task: the position of this task.

    Raises:
        UsageError: There is no such task, or the value belongs to another task.
        ReconError: The tasks have no names.
    """
    if tasks is None:
        raise nameless()
    if task not in tasks:
        raise unknown_task(task, tasks)
    if only is None:
        return tasks.index(task)
    if tasks[only] != task:
        raise UsageError(
            "task",
            f"must be {tasks[only]!r}, because this is the value of that task only",
            task,
            "Outside of only_task, the network's output has the values of all tasks.",
        )
    return 0


def unknown_task(task: Any, tasks: Sequence[str], parameter: str = "task") -> UsageError:
    """Return the error for an unknown task, which lists the known ones."""
    return UsageError(
        parameter,
        "must be one of the tasks",
        task,
        f"{did_you_mean(task, tasks)}The tasks are {', '.join(tasks)}.",
    )


def nameless() -> ReconError:
    """Return the error for a value whose tasks have no names."""
    return ReconError(
        "This value was created without the tasks' names. Use its `.parts`, which are in the "
        "order of the tasks, or create it with TaskTensor(parts, tasks=[...])."
    )


def checked_names(tasks: Sequence[str], parts: int, only: int | None) -> tuple[str, ...]:
    """Return the names of all tasks of a value.

    Args:
        tasks: The given names.
        parts: The number of tensors of the value.
        only: See :func:`place_of`.

    Raises:
        UsageError: There is not one name per task, or two are equal.
    """
    names = () if isinstance(tasks, str) or not isinstance(tasks, Iterable) else tuple(tasks)
    fit = len(names) == parts if only is None else 0 <= only < len(names)
    if not fit or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise UsageError(
            "tasks",
            "must be a different name for each task",
            tasks,
            f"There are {parts} parts."
            if only is None
            else f"The only part is that of task {only}.",
        )
    return names


def common_names(
    names: Iterable[tuple[str, ...] | None], meeting_in: str
) -> tuple[str, ...] | None:
    """Return the common task names of several values; None if none of them has names.

    Args:
        names: The names of each value.
        meeting_in: The function that combines them, for the error.

    Raises:
        ReconError: The tasks differ, or their order does.
    """
    found = {one for one in names if one is not None}
    if len(found) > 1:
        said = " and ".join(f"({', '.join(one)})" for one in sorted(found))
        raise ReconError(
            f"{meeting_in} received task-specific tensors of different tasks: {said}. All layers "
            "of a network must be split for the same tasks, in the same order."
        )
    return found.pop() if found else None


def refuse_names_in_index(index: Any) -> None:
    """Refuse a task's name together with other indices, and assignment to it.

    Raises:
        UsageError: The index contains a task's name.
    """
    inside = index if isinstance(index, tuple | list) else [index]
    names = [one for one in inside if isinstance(one, str)]
    if names:
        raise UsageError(
            "index",
            "must be either a task's name, to read that task's tensor, or an index of a tensor",
            names[0],
            f"Write out[{names[0]!r}][...] to index that task's tensor.",
        )
