"""Undo the changes of a call to a network's buffers.

Autograd may have kept a buffer for an earlier call, so a call to be undone uses copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.splitting.task_specific import CHILD, TaskSpecific

# Tables of buffers, and what stands in them by a name.
Kept = tuple[tuple[dict[str, Any], str, Tensor], ...]


def set_aside(module: nn.Module, tasks: Sequence[str]) -> Kept:
    """Make a call use copies of the statistics of tasks for which it does not count.

    Buffers that autograd has kept must not be written to, so the originals are not changed.
    """
    if not tasks or not module.training or not isinstance(module, TaskSpecific):
        return ()
    holders = [module._modules[CHILD]._modules[task] for task in tasks]  # type: ignore[union-attr]
    tables = [holder._buffers for holder in holders if holder is not None]
    if module._selection.chosen is not None:
        tables.append(module._buffers)  # those that stayed shared
    kept: Kept = tuple(
        (table, name, tensor)
        for table in tables
        for name, tensor in table.items()
        if tensor is not None
    )
    for table, name, tensor in kept:
        table[name] = tensor.clone()
    return kept


def put_back(kept: Kept) -> None:
    """Restore a module's buffers that :func:`set_aside` replaced."""
    for table, name, tensor in kept:
        table[name] = tensor


@contextmanager
def undone_unless(network: nn.Module, stays: Callable[[], bool]) -> Iterator[None]:
    """Undo the changes of a forward pass to the network's buffers and torch's random state.

    The pass uses copies of the buffers, since autograd may have kept them for earlier passes.
    """
    held = [
        (module, name, tensor)
        for module in network.modules()
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    with torch.inference_mode(False):
        copies = [tensor.clone() for _, _, tensor in held]
    for (module, name, _), copied in zip(held, copies, strict=True):
        module._buffers[name] = copied
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    state = torch.get_rng_state()
    kept = False
    try:
        yield
        kept = stays()
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for (module, name, tensor), copied in zip(held, copies, strict=True):
                if name not in module._buffers:
                    if not kept and isinstance(module, TaskSpecific):  # it was split in the pass
                        for own in module._modules[CHILD].children():  # type: ignore[union-attr]
                            own._buffers[name] = tensor.clone()
                elif not kept or module._buffers[name] is copied:
                    module._buffers[name] = tensor.copy_(copied) if kept else tensor
        if not kept:
            torch.set_rng_state(state)
            for device, own_state in states:
                torch.cuda.set_rng_state(own_state, device)
