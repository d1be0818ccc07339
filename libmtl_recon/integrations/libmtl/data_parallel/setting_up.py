"""Set up a Trainer on several ranks: they meet, compare their models and start from one state."""

from __future__ import annotations

import logging
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.batch_norm import (
    count_norms,
    is_batch_norm,
    is_synchronised,
    synchronise,
)
from libmtl_recon.integrations.libmtl.data_parallel.group import join, ranks
from libmtl_recon.integrations.libmtl.data_parallel.loaders import sliced
from libmtl_recon.integrations.libmtl.data_parallel.predictions import note_sliced
from libmtl_recon.integrations.libmtl.data_parallel.randomness import part_ways
from libmtl_recon.integrations.libmtl.prepared_arguments import prepared_training
from libmtl_recon.integrations.libmtl.wrapper import Call

_logger = logging.getLogger(__name__)
_told: WeakSet[Any] = WeakSet()
# Largest difference of a parameter between ranks, relative to its norm.
_ROUNDING = 1e-6


def meet(_: Call) -> None:
    """Connect the ranks before the first Trainer is built."""
    join()


def agree_on_model(call: Call) -> None:
    """Copy rank 0's parameters and buffers to a model that was built."""
    group = ranks()
    if group is not None:
        share_state(call.owner.model, group)


def begin_training(call: Call) -> None:
    """Begin to train: all ranks from the same state, each with random numbers of its own."""
    group = ranks()
    if group is None:
        return
    trainer = call.owner
    model = trainer.model
    share_state(model, group)
    part_ways(group, trainer.device)
    wanted = prepared_training().get("recon_sync_bn", "on") == "on"
    norms = synchronise(model) if wanted else count_norms(model)
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
    """Prepare evaluation: give all ranks one set of buffers of unsynchronised batch norms.

    Raises:
        ReconError: The ranks' networks differ in something else.
    """
    group = ranks()
    if group is not None:
        refuse_other_states(call.owner.model, group)
        _share([buffer.data for buffer in call.owner.model.buffers()], group)


def slice_loaders(call: Call) -> None:
    """Replace the script's data loaders in LibMTL's Trainer by this rank's parts of them."""
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


def refuse_other_states(model: nn.Module, group: Ranks) -> None:
    """Refuse a model whose parameters or buffers differ between ranks.

    Buffers of batch norms that are not synchronised are left out. The sum and norm of each tensor
    are compared, up to the rounding differences between devices.

    Raises:
        ReconError: They differ.
    """
    apart = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        if is_batch_norm(module) and not is_synchronised(module)
        for name, _ in module.named_buffers()  # also those of each task
    }
    own = dict(model.named_parameters())
    state = own | {name: one for name, one in model.named_buffers() if name not in apart}
    if not state:
        return
    told = torch.tensor([_summary(tensor) for tensor in state.values()], dtype=torch.float64)
    with group.sending("state"):
        everyone = torch.stack(group.gather(told)).nan_to_num(0.0)
    lengths = torch.tensor([tensor.numel() for tensor in state.values()])
    # A sum of many numbers may be small while its rounding error is not.
    scale = (
        everyone[0, :, 1, None] * torch.stack([lengths.double().sqrt(), torch.ones(len(told))]).T
    )
    differs = ((everyone - everyone[0]).abs() > _ROUNDING * scale).any(dim=2).any(dim=0)
    for name, other in zip(state, differs.tolist(), strict=True):
        if other:
            raise ReconError(
                f"The parameter {name} is not the same on all ranks: something has changed it on "
                "some of them only. Change parameters in the same way on all ranks."
                if name in own
                else f"The buffer {name} is not the same on all ranks: the network computes it "
                "from the samples of a batch, of which each rank has a part, and only the buffers "
                "of torch.nn.BatchNorm1d, 2d and 3d are those of the whole batch. Train this "
                "network in one process."
            )


def _summary(tensor: Tensor) -> tuple[float, float]:
    real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
    real = real if real.is_floating_point() else real.double()
    norm = torch.linalg.vector_norm(real, dtype=torch.float64)
    return float(real.sum(dtype=torch.float64)), float(norm)


def share_state(model: nn.Module, group: Ranks) -> None:
    """Copy rank 0's parameters and buffers to the model on all ranks."""
    state = [*model.parameters(), *model.buffers()]
    _share([tensor.data for tensor in state], group)


def _share(tensors: list[Tensor], group: Ranks) -> None:
    with group.sending("state"):
        for tensor in tensors:
            if tensor.is_complex():
                group.share(torch.view_as_real(tensor))
            else:
                group.share(tensor)
