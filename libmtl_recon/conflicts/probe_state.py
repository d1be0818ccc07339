"""The check of a probe's state, before any of it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.errors import ReconError
from libmtl_recon.states import checked_state, is_whole

_OWNER = "ConflictProbe"


def checked_probe_state(
    state: Any, tasks: Sequence[str], names: Sequence[str], sizes: Sequence[int]
) -> Mapping[str, Any]:
    """Check the state that a probe is to load, and return it.

    Args:
        state: Should be what ``ConflictProbe.state_dict`` returned.
        tasks: The probe's T tasks.
        names: The names of its L layers.
        sizes: Their numbers of parameters.

    Raises:
        UsageError: It is something else, or damaged.
        ReconError: It is the state for other tasks, or for a network with other layers.
    """
    found = checked_state(
        _OWNER,
        state,
        {
            "tasks": _are(str),
            "run": lambda run: isinstance(run, str),
            "passed_over": is_whole,
            "layers": lambda layers: isinstance(layers, Mapping),
            "counts": lambda counts: counts is None or isinstance(counts, Mapping),
        },
    )
    if list(found["tasks"]) != list(tasks):
        raise ReconError(
            f"The state is of a ConflictProbe for the tasks {found['tasks']}, but this probe is "
            f"for {list(tasks)}. Create it with the same tasks in the same order."
        )
    _check_layers(found["layers"], len(tasks), names, sizes)
    counts, nonzero = found["counts"], found["layers"]["nonzero"]
    if counts is not None:
        _check_counts(counts, len(names), len(tasks) * (len(tasks) - 1) // 2)
    steps = 0 if counts is None else sum(counts["block_steps"])
    holds = {
        "passed_over": lambda number: number <= steps,
        "counts": lambda _: (steps == 0) == (nonzero is None),
    }
    checked_state(_OWNER, found, holds)
    return found


def _check_layers(state: Any, tasks: int, names: Sequence[str], sizes: Sequence[int]) -> None:
    found = checked_state(
        _OWNER,
        state,
        {
            "names": _are(str),
            "reached": _are(list | tuple),
            "trained": _are(list | tuple),
            "nonzero": lambda one: one is None or _is_tensor(one, torch.bool),
        },
    )
    if list(found["names"]) != list(names) or [len(row) for row in found["reached"]] != [*sizes]:
        raise ReconError(
            "The state is of a ConflictProbe for a network with other layers. Create the probe "
            "for the network whose conflicts were counted."
        )
    checked_state(
        _OWNER,
        found,
        {
            "reached": lambda rows: all(
                is_whole(b) and b < 1 << tasks for row in rows for b in row
            ),
            "trained": lambda rows: (
                [len(row) for row in rows] == [*sizes]
                and all(isinstance(one, bool) for row in rows for one in row)
            ),
            "nonzero": lambda one: one is None or one.shape == (len(names), tasks),
        },
    )


def _check_counts(state: Any, layers: int, pairs: int) -> None:
    shape = layers + 1, BINS + 1
    found = checked_state(
        _OWNER,
        state,
        {
            "blocks": lambda blocks: (
                isinstance(blocks, list)
                and all(_is_tensor(block, torch.int64) and block.shape == shape for block in blocks)
            ),
            "block_steps": lambda steps: _are(int)(steps) and all(map(is_whole, steps)),
            "block_length": lambda length: is_whole(length, 1),
        },
    )
    steps = found["block_steps"]
    whole = len(steps) == len(found["blocks"]) and all(
        bool((block >= 0).all()) and bool((block.sum(dim=1) == count * pairs).all())
        for block, count in zip(found["blocks"], steps, strict=True)
    )
    # A probe counts every pair of tasks once per step and layer.
    checked_state(_OWNER, found, {"blocks": lambda _: whole})


def _are(kind: Any) -> Any:
    return lambda values: (
        isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)
    )


def _is_tensor(value: Any, dtype: torch.dtype) -> bool:
    return isinstance(value, Tensor) and value.dtype == dtype
