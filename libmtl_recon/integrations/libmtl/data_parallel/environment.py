"""The ranks of a training, read from torchrun's environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from libmtl_recon.errors import ReconError, UsageError

_NAMES = ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process among those that torchrun has started.

    Attributes:
        rank: Number of the process, from 0.
        size: Number of processes, at least two.
        local_rank: Number of the process on its machine.
        local_size: Number of processes on its machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int


def world(environment: Mapping[str, str] | None = None) -> World | None:
    """Return this process's place among those of torchrun; None for a single process.

    Args:
        environment: By default that of the process.

    Raises:
        ReconError: A variable is missing.
        UsageError: A variable has a value that torchrun does not set.
    """
    found = os.environ if environment is None else environment
    if "RANK" not in found or found.get("WORLD_SIZE") == "1":
        return None
    for name in _NAMES:
        if name not in found:
            raise ReconError(
                f"RANK and WORLD_SIZE={found.get('WORLD_SIZE')} are set as torchrun sets them, "
                f"but {name} is not. Start the training with torchrun, or unset RANK and "
                "WORLD_SIZE to train in one process."
            )
    rank, size = _number(found, "RANK"), _number(found, "WORLD_SIZE")
    local = _number(found, "LOCAL_RANK") if "LOCAL_RANK" in found else rank
    local_size = _number(found, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in found else size
    if size < 1 or not 0 <= rank < size:
        raise UsageError(
            "RANK",
            f"must be from 0 to WORLD_SIZE - 1 (WORLD_SIZE={size})",
            rank,
            "Start the training with torchrun, which sets both.",
        )
    return World(rank, size, local, local_size)


def is_first() -> bool:
    """Return whether this process prints and writes files: a single process or rank 0."""
    found = world()
    return found is None or found.rank == 0


def _number(found: Mapping[str, str], name: str) -> int:
    try:
        return int(found[name])
    except ValueError:
        raise UsageError(
            name, "must be a whole number, as torchrun sets it", found[name], "Use torchrun."
        ) from None
