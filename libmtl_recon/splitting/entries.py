"""Handle outputs with one entry per task: a list, a tuple, or a dict."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.pytree import mapped, updated
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_tensor import TaskTensor


def looks_per_task(output: Any, tasks: tuple[str, ...]) -> bool:
    """Return whether an output has one entry per task: a dict with their names, or a list."""
    if type(output) is dict:
        return set(output) == set(tasks)
    return isinstance(output, list) and len(output) >= len(tasks)


def entries_of(output: Any, tasks: tuple[str, ...]) -> list[Any]:
    """Return the tasks' entries in a network's output, in the tasks' order.

    Raises:
        ReconError: It is neither a list or tuple with one entry per task, nor a dict by task.
    """
    if isinstance(output, Mapping) and set(output) == set(tasks):
        return [output[task] for task in tasks]
    if isinstance(output, list | tuple) and len(output) >= len(tasks):
        return list(output[: len(tasks)])
    found = f"{type(output).__name__}"
    if isinstance(output, Mapping | list | tuple):
        found += f" of {len(output)}"
    raise ReconError(
        "With per_task_output=True, the network must return one entry per task: a list or tuple "
        f"of {len(tasks)}, or a dict with the keys {', '.join(tasks)}; it returned a {found}."
    )


def diagonal(output: Any, selection: TaskSelection) -> Any:
    """Return a network's output with entry t as computed for task t."""
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
    if type(leaf) is not TaskTensor:
        return leaf
    if leaf.task not in (None, place):
        raise mixed()
    return leaf.parts[place if leaf.task is None else 0]


def only_entry(output: Any, task: str, tasks: Iterable[str]) -> Any:
    """Return an output for one decoder: of a dict by task, it can read its own entry only."""
    keyed = type(output) is dict and set(output) == set(tasks)
    return _OwnEntry(task, output[task]) if keyed else output


class _OwnEntry(dict[str, Any]):
    def __init__(self, task: str, entry: Any) -> None:
        super().__init__({task: entry})
        self._task = task

    def __missing__(self, key: str) -> Any:
        raise ReconError(
            f"The decoder of task {self._task!r} reads {key!r} of the encoder's output, which is "
            "a dict with the tasks as keys, so that each entry is computed for its own task "
            "only. Make the encoder return a tuple, which is computed as a whole for each task."
        )


def mixed() -> ReconError:
    """Return the error for an entry that is computed from another task's values."""
    return ReconError(
        "An entry of the network's output was computed from values of another task's entry. "
        "Each must be computed for its own task only; values that the tasks have in common must "
        "be computed by torch functions that PyTorch's modes can intercept."
    )
