"""Entries of a split network's output that are not assigned to their tasks: a silent mistake.

A network that returns one entry per task, but was split without ``per_task_output=True``, returns
each entry for all tasks. If the losses of the entries are summed and differentiated as they are,
each copy of a layer is trained by the losses of all tasks, so that all copies stay the same. Task
tensors therefore carry the entries of the output that they were computed from, until they meet
something else that differs between tasks, such as a task's own targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from libmtl_recon.errors import ReconError


@dataclass(eq=False)
class Output:
    """The output of one call of a split network, with as many entries as there are tasks.

    Attributes:
        tasks: The T tasks.
        named: Whether it is a dict with the tasks as keys.
        differentiated: The places of the entries that backward passes have begun at so far.
    """

    tasks: tuple[str, ...]
    named: bool
    differentiated: set[int] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class Origin:
    """The entries of an output that a value was computed from, by their places."""

    output: Output
    entries: frozenset[int]


class Marked(Protocol):
    """A task tensor."""

    _origin: Origin | None


def entries_by_place(output: Any, tasks: tuple[str, ...]) -> Sequence[Any]:
    """Return the T entries of an output that has one per task; none if it has not."""
    if isinstance(output, Mapping) and set(output) == set(tasks):
        return [output[task] for task in tasks]
    if isinstance(output, list | tuple) and len(output) == len(tasks):
        return output
    return ()


def common_origin(given: Sequence[Marked]) -> Origin | None:
    """Return the origin of what is computed from task tensors; None if it has other parts."""
    first = given[0]._origin if given else None
    if first is None or len(given) == 1:
        return first
    origins = [one._origin for one in given]
    if any(one is None or one.output is not first.output for one in origins):
        return None
    return Origin(first.output, frozenset().union(*(one.entries for one in origins if one)))


def refuse_unassigned(given: Sequence[Marked]) -> None:
    """Refuse a backward pass that trains each task's copies by the entries of all tasks.

    Args:
        given: The task tensors, with values for all tasks, at which it begins.

    Raises:
        ReconError: They have no values but those of the entries of an output with one entry per
            task.
    """
    for one in given:
        origin = one._origin
        if origin is None:
            continue
        output = origin.output
        output.differentiated.update(origin.entries)
        if output.named or len(output.differentiated) == len(output.tasks):
            tasks = ", ".join(output.tasks)
            raise ReconError(
                "The network was split without per_task_output=True, and returned one entry for "
                f"each of the tasks {tasks}: each entry has the values of all tasks' copies, so "
                "this backward pass would train every copy by the losses of all tasks. Split the "
                "network with per_task_output=True if each entry is a task's output. If each task "
                "has a loss of all entries, differentiate sum(loss.by_task().values())."
            )
