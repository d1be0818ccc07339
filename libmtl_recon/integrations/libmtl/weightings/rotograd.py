"""RotoGrad as a LibMTL weighting."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from LibMTL.weighting.abstract_weighting import AbsWeighting
from numpy.typing import NDArray
from torch import Tensor, nn

from libmtl_recon.errors import ReconError, UsageError, naming
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.data_parallel.predictions import samples_of
from libmtl_recon.integrations.libmtl.step.step import task_scalars
from libmtl_recon.splitting.spec_storage import carry_over
from libmtl_recon.weighting.checking import check_losses
from libmtl_recon.weighting.leader import Leader
from libmtl_recon.weighting.rotograd import RotoGrad as Rotations
from libmtl_recon.weighting.rotograd_folding import fold_decoders
from libmtl_recon.weighting.rotograd_settings import RotoGradSettings

# The fields of the settings; each is the argument `rotograd_...`.
_SETTINGS = ("size", "mode", "map", "burn_in", "every", "alpha")
_FLAGS = {name: f"--rotograd_{name}" for name in _SETTINGS}


class RotoGrad(AbsWeighting):  # type: ignore[misc]  # LibMTL is untyped
    """``--weighting RotoGrad``: one rotation per task between the representation and its decoder.

    The rotations are hooked onto the decoders, whose parameters keep their names. A decoder's
    input is the task's representation, in every architecture: where each task has its own
    (experts, attention, Recon), the gradients with respect to these are compared, in their common
    space. All parameters before the decoders get the gradients that RotoGrad makes of them.

    The rotations are made in the first step, when the size of the representation is known, or when
    a checkpoint brings them; until then they are the identity. All state is in the model's
    ``state_dict()``, under ``rotograd`` and ``rotograd_leader``.
    """

    takes_missing_labels = True
    rotograd: Rotations
    rotograd_leader: Leader

    @staticmethod
    def check_arguments(tasks: Sequence[str], weight_args: Mapping[str, Any]) -> None:
        """Check the arguments before a Trainer builds anything.

        Raises:
            UsageError: An argument is missing or invalid.
        """
        wanted = [*(f"rotograd_{name}" for name in _SETTINGS), "rotograd_lr", "rotograd_decay"]
        missing = [name for name in wanted if name not in weight_args]
        if missing:
            raise UsageError(
                "weight_args",
                f"must hold {', '.join(wanted)} for the weighting RotoGrad",
                dict(weight_args),
                "LibMTL's prepare_args sets them from the flags.",
            )
        _settings(weight_args)

    def init_param(self) -> None:
        """Hook the rotations onto the decoders.

        Raises:
            ReconError: Two tasks have the same decoder, or nothing before the decoders trains.
        """
        # LibMTL's own cut at the representation would come before the rotation.
        self.rep_grad = False
        decoders = [self.decoders[task] for task in self.task_name]
        if len({id(decoder) for decoder in decoders}) < len(decoders):
            raise ReconError(
                "--weighting RotoGrad needs a separate decoder for each task, since the task's "
                "rotation is applied to its input, but here tasks share one. Copy it with "
                "copy.deepcopy."
            )
        if not any(p.requires_grad for p in self.get_share_params()):
            raise ReconError(
                "--weighting RotoGrad needs shared parameters that train, and this network has "
                "none: every layer is task-specific or frozen. Lower --recon_k, unfreeze a "
                "layer, or use --weighting EW."
            )
        self.rotograd = Rotations(self.task_name)
        self.rotograd_leader = Leader()
        for task, decoder in zip(self.task_name, decoders, strict=True):
            decoder.register_forward_pre_hook(partial(self._rotate_input, task))

    def restart_rotations(self) -> None:
        """Reset the rotations to the identity, for a network that has none."""
        like = self.rotograd.history.first_norms
        fresh = Rotations(self.rotograd.tasks).to(like.device, like.dtype)
        self.rotograd = fresh.train(self.training)
        self.rotograd_leader = Leader()

    def leader_lr(self, weight_args: Mapping[str, Any], steps: int = 0) -> float:
        """Return the learning rate of the rotations ``steps`` steps from now."""
        decay: float = weight_args["rotograd_decay"] ** (self.rotograd.steps + steps)
        return float(weight_args["rotograd_lr"]) * decay

    def backward(self, losses: Tensor, **kwargs: Any) -> NDArray[np.float64]:
        """Compute one step's gradients, and make the step of the rotations.

        Args:
            losses: ``[P]``, with their graph: one per task that is present.
            **kwargs: ``rotograd_mode``, ``rotograd_lr`` and the other flags.

        Returns:
            The factors ``[P]`` that the gradients of the representations were multiplied by.

        Raises:
            ReconError: A task's gradient is not finite.
            UsageError: The losses are not one per task, or the flags do not fit the
                representation, or a checkpoint's rotations.
        """
        check_losses(losses, self.task_name)
        lr = self.leader_lr(kwargs)
        scalars = task_scalars(self, losses)
        self.rotograd.settings = _settings(kwargs)
        with naming(**_FLAGS):
            weights = self.rotograd.backward(
                dict(zip(self.task_name, scalars, strict=True)),
                same_rows=not self.multi_input,
                ranks=ranks(),
                samples=samples_of(self),
            )
        self.rotograd_leader.step(self.rotograd.named_parameters(), lr)
        return np.asarray(weights)

    def folded_state_dict(self) -> dict[str, Tensor]:
        """Return the ``state_dict()`` of a model without RotoGrad that predicts the same.

        Each rotation is merged into the first layer of its decoder, which must be linear:
        ``nn.Linear`` or a convolution, directly or in an ``nn.Sequential`` after modules that keep
        channels separate (pooling by the mean, flattening, dropout).

        Raises:
            ReconError: A decoder does not begin with such a layer.
        """
        state = self.state_dict()
        decoders = {task: self.decoders[task] for task in self.rotograd.tasks}
        folded = OrderedDict(fold_decoders(state, decoders, self.rotograd))
        carry_over(state, folded)
        return folded

    def _rotate_input(self, task: str, decoder: nn.Module, inputs: tuple[Any, ...]) -> Any:
        if not inputs or not isinstance(inputs[0], Tensor):
            kind = type(inputs[0]).__name__ if inputs else "nothing"
            raise ReconError(
                "--weighting RotoGrad rotates the tensor that enters a decoder, but the decoder "
                f"of task {task!r} gets {kind}. Return one tensor (per task) from the encoder."
            )
        with naming(**_FLAGS):
            return (self.rotograd.rotate(inputs[0], task), *inputs[1:])


def _settings(weight_args: Mapping[str, Any]) -> RotoGradSettings:
    with naming(**_FLAGS):
        return RotoGradSettings(**{name: weight_args[f"rotograd_{name}"] for name in _SETTINGS})
