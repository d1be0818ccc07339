"""The values that RotoGrad keeps from the start of training, and reads in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.weighting.full_precision import FullPrecision
from libmtl_recon.weighting.rotograd_compared import norms_of


@dataclass(frozen=True)
class Seen:
    """The values of one step, on the CPU, in float64, for the P tasks that are present.

    Attributes:
        step: The number of the step, from 0.
        norms: ‖gₖ‖ ``[P]``.
        losses: Lₖ ``[P]``.
        first_norms: ‖gₖ⁰‖ ``[P]``, NaN for a task whose gradient has always been zero.
        first_losses: Lₖ⁰ ``[P]``.
    """

    step: int
    norms: Tensor
    losses: Tensor
    first_norms: Tensor
    first_losses: Tensor


class History(FullPrecision):
    """The number of steps, and each task's loss and gradient norm at the start.

    The latter are recorded at the first step, and again at the end of the burn-in, or at the first
    step after it in which the task has a gradient.

    Args:
        tasks: The number of tasks T.
    """

    steps: Tensor
    first_losses: Tensor
    first_norms: Tensor
    settled: Tensor

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("first_losses", torch.full((tasks,), torch.nan))
        self.register_buffer("first_norms", torch.full((tasks,), torch.nan))
        # Whether the values were recorded at the end of the burn-in, or later.
        self.register_buffer("settled", torch.zeros(tasks, dtype=torch.bool))

    def look(
        self,
        names: Sequence[str],
        places: Sequence[int],
        losses: Sequence[Tensor],
        gradients: Sequence[Tensor],
        burn_in: int,
        ranks: Ranks | None = None,
    ) -> Seen:
        """Copy a step's values from the device; this is the only synchronisation of the step.

        Args:
            names: The P tasks that are present.
            places: Their places among all T.
            losses: One scalar per task.
            gradients: One tensor per task.
            burn_in: The step at which the first norms and losses are recorded again.
            ranks: The ranks among which the gradients' rows are divided, if there are several.

        Raises:
            ReconError: A gradient is not finite.
        """
        device = gradients[0].device
        exact = torch.float32 if device.type == "mps" else torch.float64
        norms = norms_of(gradients, ranks, exact)
        state = (self.first_norms, self.first_losses, self.settled, self.steps.reshape(1))
        packed = torch.cat(
            [
                torch.stack(norms),
                torch.stack([loss.detach().reshape(()).to(exact) for loss in losses]),
                *(part.to(device, exact) for part in state),
            ]
        )
        widths = [len(names)] * 2 + [len(part) for part in state]
        own_norms, own_losses, *memory = packed.cpu().double().split(widths)
        _refuse_broken(names, own_norms)
        first_norms, first_losses, settled = (part[list(places)] for part in memory[:3])
        step = int(memory[3])
        late = step >= burn_in
        fresh = (own_norms > 0) & (first_norms.isnan() | (late & (settled == 0)))
        if bool(fresh.any()):
            first_norms[fresh], first_losses[fresh] = own_norms[fresh], own_losses[fresh]
            there = torch.tensor(places)[fresh].to(self.settled.device)
            self.first_norms[there] = own_norms[fresh].to(self.first_norms)
            self.first_losses[there] = own_losses[fresh].to(self.first_losses)
            self.settled[there] = late
        return Seen(step, own_norms, own_losses, first_norms, first_losses)


def _refuse_broken(names: Sequence[str], norms: Tensor) -> None:
    broken = [name for name, norm in zip(names, norms, strict=True) if not torch.isfinite(norm)]
    if broken:
        raise ReconError(
            f"The gradient of task {', '.join(map(repr, broken))} is not finite (NaN or inf), so "
            "training stops. Check this task's loss and labels, or lower the learning rate."
        )
