"""What a network returns that has an entry for each task: a list, a tuple, or a dict."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from libmtl_recon.errors import ReconError
from libmtl_recon.splitting.pytree import mapped, updated
from libmtl_recon.splitting.task_selection import TaskSelection
from libmtl_recon.splitting.task_tensor import TaskTensor


def looks_per_task(output: Any, tasks: tuple[str, ...]) -> bool:
    """Whether an output has an entry for each task: a dict by their names, or so long a list."""
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


def diagonal(output: Any, selection: TaskSelection) -> Any:
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
    if type(leaf) is not TaskTensor:
        return leaf
    if leaf.task not in (None, place):
        raise mixed()
    return leaf.parts[place if leaf.task is None else 0]


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


def mixed() -> ReconError:
    """The error for an entry that is made of another task's values."""
    return ReconError(
        "An entry of what the network returns was made of values of another task's entry. Each "
        "must be computed for its own task alone; what the tasks have in common must be computed "
        "by torch functions that PyTorch's modes see."
    )
