"""The ranks of this training, connected when the first Trainer is built."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.devices import device_of_rank
from libmtl_recon.integrations.libmtl.data_parallel.environment import world

_ranks: Ranks | None = None
_store: Any = None
# How long a rank waits for another: an evaluation, or the reading of a data set, may take long on
# one alone. A rank that ends, for whatever reason, is noticed at once.
_PATIENCE = timedelta(hours=12)


def ranks() -> Ranks | None:
    """Return the ranks of this training; None for a single process."""
    return _ranks


def store() -> Any:
    """Return the key-value store shared by all ranks; None before :func:`join`."""
    return _store


def join() -> Ranks | None:
    """Connect to the other ranks, once, and return them; None for a single process.

    Raises:
        ReconError: The script has made a process group of its own.
        UsageError: torchrun's variables have invalid values.
    """
    global _ranks, _store
    found = world()
    if found is None or _ranks is not None:
        return _ranks
    if dist.is_initialized():
        raise ReconError(
            "The script has created its own process group (torch.distributed.init_process_group), "
            "and libmtl-recon does not know what it is for. Leave it out, and also any "
            "DistributedDataParallel or DistributedSampler: under torchrun, libmtl-recon creates "
            "the process group from torchrun's variables and handles batches, gradients and "
            "metrics for every weighting."
        )
    both = torch.cuda.is_available() and os.environ.get("LIBMTL_RECON_DEVICE", "cuda") != "cpu"
    if both:
        # Then the default device, also NCCL's, is this rank's.
        torch.cuda.set_device(device_of_rank(found))
    rendezvous: Any = dist.rendezvous("env://", timeout=_PATIENCE)  # type: ignore[attr-defined]
    _store, rank, size = next(rendezvous)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if both else "gloo",
        store=dist.PrefixStore("libmtl_recon", _store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    _ranks = Ranks()
    return _ranks
