"""The device of a rank: the GPU with its local number, or the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.data_parallel.environment import World, world

# LibMTL's --gpu_id if none was given.
_DEFAULT = "0"


def device_of_rank(world: World) -> torch.device:
    """Return the visible GPU with a rank's local number, or the CPU if there is none.

    Raises:
        UsageError: There are fewer GPUs than ranks on this machine.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count < world.local_size:
        raise UsageError(
            "--nproc-per-node",
            f"must be at most the number of GPUs that are visible on this machine, {count}",
            world.local_size,
            "Start as many ranks as there are GPUs, make more of them visible with "
            "CUDA_VISIBLE_DEVICES, or set LIBMTL_RECON_DEVICE=cpu to train on CPUs.",
        )
    return torch.device("cuda", world.local_rank)


def leave_visible(proceed: Callable[[str], None], gpu_id: str) -> None:
    """Wrap LibMTL's ``set_device``, with which each rank would see only the first GPU.

    It is called before CUDA is used, after which CUDA sees no other GPUs. LibMTL's default does
    not refer to ranks and is skipped.

    Raises:
        UsageError: The script names fewer GPUs than there are ranks on this machine.
    """
    found = world()
    named = [name for name in str(gpu_id).split(",") if name.strip()]
    if found is None or len(named) >= found.local_size or not named or named[0].startswith("-"):
        proceed(gpu_id)
    elif gpu_id != _DEFAULT:
        raise UsageError(
            "--gpu_id",
            f"must name as many GPUs as there are ranks on this machine, {found.local_size}",
            gpu_id,
            "Leave it out: rank r of a machine trains on the r-th GPU that is visible.",
        )
