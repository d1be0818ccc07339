"""Joint losses of T tasks, for trainers that differentiate one loss.

A trainer multiplies its loss (by the scale of a gradient scaler, or by one over the number of
accumulated batches) and calls ``backward``. It gets the sum of the losses as a new leaf: the leaf's
gradient is then the trainer's factor, and the losses are weighted or scored with that factor. This
does not depend on the trainer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.states import checked_state
from libmtl_recon.weighting.step import StepResult, weigh
from libmtl_recon.weighting.step_losses import Losses, named_losses

_PARTS = ("weighting", "probe")


class TaskLosses:
    """The losses of each step, weighted or scored in a trainer that has one loss.

    Args:
        weighting: The weighting, as for :func:`libmtl_recon.step`; None for no weighting.
        probe: A :class:`libmtl_recon.ConflictProbe`; None: conflicts are not counted. Without both,
            the losses are summed.
        shared: The shared parameters for the weighting; None: those that at least two losses reach.

    Attributes:
        weighting: The weighting.
        probe: The probe.
        result: The result of the last weighted step; None before the first.

    Raises:
        UsageError: There are both a weighting and a probe, or the probe is not a probe.
    """

    def __init__(
        self,
        weighting: Any = None,
        probe: Any = None,
        shared: Iterable[nn.Parameter] | None = None,
    ) -> None:
        if weighting is not None and probe is not None:
            raise UsageError(
                "weighting",
                "cannot be combined with `probe`, because each of them runs the backward passes of "
                "a step",
                weighting,
                "Score conflicts in one training, and use the weighting in another.",
            )
        if probe is not None and not callable(getattr(probe, "backward", None)):
            raise UsageError(
                "probe",
                "must be a ConflictProbe",
                probe,
                "Create one with the network and the tasks.",
            )
        self.weighting, self.probe = weighting, probe
        self.result: StepResult | None = None
        self._shared = None if shared is None else list(shared)
        self._named: dict[str, Tensor | None] = {}
        self._listed = False
        self._leaf: Tensor | None = None

    def join(self, losses: Losses) -> Tensor:
        """Return the loss that the trainer differentiates instead of the losses' sum.

        Args:
            losses: As for :func:`libmtl_recon.step`; all may be absent.

        Returns:
            A scalar, float32 or float64, with the value of the sum of the losses that are present.
            If gradients are not recorded, or without weighting and probe, it is that sum itself.

        Raises:
            UsageError: A loss is not a finite scalar with a graph.
        """
        if not torch.is_grad_enabled():
            return _sum(dict(losses) if isinstance(losses, Mapping) else dict(enumerate(losses)))
        named = named_losses(losses)
        self._listed = not isinstance(losses, Mapping)
        if self.weighting is None and self.probe is None:
            return _sum(named)
        self._named, self._leaf = named, _sum(named).detach().requires_grad_()
        return self._leaf

    def backward(self, network: nn.Module, *, may_overflow: bool) -> StepResult | None:
        """Weight or score the joined losses, after the trainer's backward pass.

        Args:
            network: The network with the shared parameters, for the weighting.
            may_overflow: Whether a gradient scaler skips steps that are not finite.

        Returns:
            The result of the weighting; None without weighting.

        Raises:
            UsageError: As for :func:`libmtl_recon.step`.
            ReconError: As for :func:`libmtl_recon.step`, or the trainer has differentiated another
                loss.
        """
        leaf, self._leaf = self._leaf, None
        named, self._named = self._named, {}
        if leaf is None:
            return None
        factor = None if leaf.grad is None else float(leaf.grad)
        if factor is None or not math.isfinite(factor) or factor == 0.0:
            raise ReconError(
                "The loss that was differentiated does not depend on what joint_loss(losses) "
                "returned in this step. Return that from training_step, alone or with other terms "
                "added."
            )
        present = {name: loss for name, loss in named.items() if loss is not None}
        if not present:
            return None
        if self.probe is not None:
            scaled = {
                name: None if loss is None else _wide(loss) * factor for name, loss in named.items()
            }
            self.probe.backward(list(scaled.values()) if self._listed else scaled)
            return None
        self.result = weigh(
            named,
            network,
            self.weighting,
            shared=self._shared,
            factor=factor,
            may_overflow=may_overflow,
        )
        return self.result

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the weighting and the probe, if they have a ``state_dict``."""
        found = {}
        for part in _PARTS:
            state = getattr(getattr(self, part), "state_dict", None)
            if callable(state):
                found[part] = state()
        return found

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that :meth:`state_dict` returned.

        Raises:
            UsageError: It is no dict.
            ReconError: It has the state of another kind of weighting or probe, or lacks one.
        """
        checked_state(type(self).__name__, state, {})
        for part in _PARTS:
            own = getattr(getattr(self, part), "load_state_dict", None)
            if callable(own) and part not in state:
                raise ReconError(
                    f"The checkpoint has no state of a {part}, but the {part} of this training "
                    "needs the one that it had when the checkpoint was saved. Continue with the "
                    f"{part} that the checkpoint was trained with, or load the weights alone."
                )
        for part, content in state.items():
            load = getattr(getattr(self, part, None), "load_state_dict", None)
            if not callable(load):
                raise ReconError(
                    f"The checkpoint has the state of a {part}, but this training has no {part} "
                    f"that can load it. Continue with the {part} that the checkpoint was trained "
                    "with."
                )
            load(content)


class WithTaskLosses:
    """The properties that the modules and trainers with joint losses share."""

    _task_losses: TaskLosses

    @property
    def weighting(self) -> Any:
        """The weighting of the tasks' gradients; None if there is none."""
        return self._task_losses.weighting

    @property
    def probe(self) -> Any:
        """The probe that counts conflicts; None if there is none."""
        return self._task_losses.probe

    @property
    def step_result(self) -> StepResult | None:
        """The weights and the Gramian of the last step; None before the first."""
        return self._task_losses.result


def _sum(losses: Mapping[Any, Tensor | None]) -> Tensor:
    present = [_wide(loss).reshape(()) for loss in losses.values() if loss is not None]
    if not present:
        return torch.zeros(())
    return torch.stack([loss.to(present[0].device) for loss in present]).sum()


def _wide(loss: Tensor) -> Tensor:
    return loss.float() if loss.itemsize < 4 else loss  # a scale may overflow float16
