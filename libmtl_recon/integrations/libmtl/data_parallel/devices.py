"""The device of a rank: the GPU of its number on its machine, else the CPU."""

from __future__ import annotations

import os

import torch

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.data_parallel.environment import World

# What LibMTL's --gpu_id, by default 0, sets on all ranks alike.
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_at_start = os.environ.get(_VISIBLE)


def device_of_rank(world: World) -> torch.device:
    """The GPU of a rank's number on its machine, among those that are visible; else the CPU.

    LibMTL's ``set_device`` hides all GPUs but those that ``--gpu_id`` names, by default the first.
    Where that leaves fewer than there are ranks, it is undone, if CUDA has not been used yet.

    Raises:
        UsageError: There are fewer GPUs than ranks on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if torch.cuda.device_count() < world.local_size and not torch.cuda.is_initialized():
        if _at_start is None:
            os.environ.pop(_VISIBLE, None)
        else:
            os.environ[_VISIBLE] = _at_start
    count = torch.cuda.device_count()
    if count < world.local_size:
        raise UsageError(
            "--nproc-per-node",
            f"must be at most the {count} GPUs that are visible on this machine",
            world.local_size,
            "Start as many ranks as there are GPUs; name all of them by --gpu_id, if the script "
            "has that; or set LIBMTL_RECON_DEVICE=cpu to train on CPUs.",
        )
    return torch.device("cuda", world.local_rank)
