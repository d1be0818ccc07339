"""The losses of one step, by task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients.losses import check_losses

Losses = Mapping[Any, Tensor | None] | Sequence[Tensor | None]


def named_losses(losses: Losses) -> dict[str, Tensor | None]:
    """Return the losses by the tasks' names, which are ``"0"``, ``"1"``, … for a list.

    Raises:
        UsageError: They are neither a dict nor a list, or one that is present is not a real, finite
            scalar with a graph.
    """
    way_out = "Pass {task: loss}, or the losses in the order of the tasks."
    if isinstance(losses, Mapping):
        named = {str(name): loss for name, loss in losses.items()}
        if len(named) < len(losses):
            raise UsageError("losses", "must have tasks of different names", list(losses), way_out)
    elif isinstance(losses, Sequence) and not isinstance(losses, str | bytes):
        named = {str(place): loss for place, loss in enumerate(losses)}
    else:
        # A tensor is refused as well: its entries reach what any of the losses reaches.
        shown = f"a tensor {list(losses.shape)}" if isinstance(losses, Tensor) else losses
        raise UsageError("losses", "must be a dict or a list of losses", shown, way_out)
    _check({name: loss for name, loss in named.items() if loss is not None})
    return named


def _check(present: Mapping[str, Any]) -> None:
    check_losses(present)
    # One check per loss would synchronise with the device for each.
    values = [loss.detach().float().reshape(()) for loss in present.values()]
    together = torch.stack([value.to(values[0].device) for value in values]) if values else None
    for name, value in zip(present, [] if together is None else together.tolist(), strict=True):
        if not math.isfinite(value):
            raise UsageError(
                f"The loss of task {name!r}",
                "must be finite",
                value,
                "Look at its inputs and labels; for a task without labels in this step pass None.",
            )
