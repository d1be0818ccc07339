"""Random numbers: the same on all ranks where they must agree, separate per rank elsewhere.

What is computed from a whole batch (losses, metrics, weightings) draws rank 0's numbers on all
ranks, and rank 0's generators advance as they do in one process. Dropout, and data sets that draw,
use each rank's own numbers.
"""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from libmtl_recon.gradients.ranks import Ranks


@contextmanager
def drawing_as_first(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Draw rank 0's random numbers inside the ``with`` block."""
    if ranks.is_first:
        with ranks.sending("random state"):
            ranks.from_first(_state(device))
        yield
        return
    own = _state(device)
    with ranks.sending("random state"):
        _restore(ranks.from_first(), device)
    try:
        yield
    finally:
        _restore(own, device)


def part_ways(ranks: Ranks, device: torch.device) -> None:
    """Seed all ranks but rank 0 anew, each differently, derived from rank 0's seed."""
    with ranks.sending("random state"):
        first = ranks.from_first(_state(device) if ranks.is_first else None)
    if ranks.is_first:
        return
    digest = hashlib.sha256(pickle.dumps((first, ranks.rank))).digest()
    seed = int.from_bytes(digest[:8], "big")
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed % (1 << 63))


def _state(device: torch.device) -> Any:
    # As arrays, which take a tenth of a tensor's time to pickle.
    on_device = torch.cuda.get_rng_state(device).numpy() if device.type == "cuda" else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state().numpy(), on_device


def _restore(state: Any, device: torch.device) -> None:
    of_python, of_numpy, of_torch, on_device = state
    random.setstate(of_python)
    np.random.set_state(of_numpy)
    torch.set_rng_state(torch.from_numpy(of_torch))
    if on_device is not None:
        torch.cuda.set_rng_state(torch.from_numpy(on_device), device)
