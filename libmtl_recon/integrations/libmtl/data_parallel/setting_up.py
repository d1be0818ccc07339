"""A Trainer of several ranks: they meet, agree on what they train, and go on alike."""

from __future__ import annotations

import logging
import zlib
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from libmtl_recon.gradients import packing
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.batch_norm import batch_norms, synchronise
from libmtl_recon.integrations.libmtl.data_parallel.group import join, ranks
from libmtl_recon.integrations.libmtl.data_parallel.loaders import sliced
from libmtl_recon.integrations.libmtl.data_parallel.predictions import note_sliced
from libmtl_recon.integrations.libmtl.data_parallel.randomness import part_ways
from libmtl_recon.integrations.libmtl.prepared_arguments import prepared_training
from libmtl_recon.integrations.libmtl.wrapper import Call

_logger = logging.getLogger(__name__)
_told: WeakSet[Any] = WeakSet()
_warned: WeakSet[Any] = WeakSet()


def meet(_: Call) -> None:
    """Have the ranks meet, before the first Trainer is built."""
    join()


def agree_on_model(call: Call) -> None:
    """Give a model that was built rank 0's parameters and buffers, and tell of its batch norms."""
    group = ranks()
    if group is not None:
        share_state(call.owner.model, group)


def begin_training(call: Call) -> None:
    """Begin to train: all ranks from one state, each with random numbers of its own."""
    group = ranks()
    if group is None:
        return
    trainer = call.owner
    model = trainer.model
    share_state(model, group)
    part_ways(group, trainer.device)
    wanted = prepared_training().get("recon_sync_bn", "on") == "on"
    norms = synchronise(model) if wanted else len(batch_norms(model))
    if trainer in _told:
        return
    _told.add(trainer)
    _logger.info("Recon: training on %d ranks, as one process would", group.size)
    if norms and not wanted:
        _logger.warning(
            "--recon_sync_bn off: each rank's batch norms (%d) see its own part of a batch, which "
            "is not what one process would do",
            norms,
        )


def begin_evaluation(call: Call) -> None:
    """Evaluate one network: batch norms that were not synchronised have other buffers per rank."""
    group = ranks()
    if group is not None:
        _tell_of_buffers(call.owner.model, group)
        _share([buffer.data for buffer in call.owner.model.buffers()], group)


def _tell_of_buffers(model: nn.Module, group: Ranks) -> None:
    """Warn, once for each model, of buffers that each rank has changed by its part of the batches.

    Batch norms are told of when the training begins.
    """
    if model in _warned:
        return
    known = {id(b) for norm in batch_norms(model) for b in norm.buffers()}
    buffers = {name: b for name, b in model.named_buffers() if id(b) not in known}
    if not buffers:
        return
    own = torch.tensor([_digest(buffer) for buffer in buffers.values()])
    with group.sending("agreement"):
        everyone = torch.stack(group.gather(own))
    differ = (everyone != everyone[0]).any(dim=0).tolist()
    names = [name for name, differs in zip(buffers, differ, strict=True) if differs]
    if names:
        _warned.add(model)
        _logger.warning(
            "The network keeps in %s what it computes of its batches. Of several ranks each "
            "computes it of its own part, and so in training not what one process would; only "
            "PyTorch's batch norms look at the whole batch. Rank 0's goes on",
            ", ".join(names),
        )


def _digest(tensor: Tensor) -> int:
    content = torch.zeros(packing.room(tensor.shape, tensor.dtype), dtype=torch.uint8)
    packing.pack(content, [tensor.cpu()])
    return zlib.crc32(content.numpy().tobytes())


def slice_loaders(call: Call) -> None:
    """Give LibMTL's Trainer this rank's part of the script's data loaders."""
    group = ranks()
    if group is None:
        return
    note_sliced(call.owner)
    given, device = call.arguments["dataloaders"], call.owner.device
    if isinstance(given, dict):
        parts = {task: sliced(own, group, device) for task, own in given.items()}
        call.arguments["dataloaders"] = parts
    else:
        call.arguments["dataloaders"] = sliced(given, group, device)


def share_state(model: nn.Module, group: Ranks) -> None:
    """Give a model rank 0's parameters and buffers."""
    state = [*model.parameters(), *model.buffers()]
    _share([tensor.data for tensor in state], group)


def _share(tensors: list[Tensor], group: Ranks) -> None:
    with group.sending("state"):
        for tensor in tensors:
            if tensor.is_complex():
                group.share(torch.view_as_real(tensor))
            else:
                group.share(tensor)
