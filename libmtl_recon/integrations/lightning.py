"""Gradient weightings and conflict scores in Lightning's training (https://lightning.ai).

Needs the package ``lightning``: ``pip install 'libmtl-recon[lightning]'``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from libmtl_recon.errors import MissingPackageError, ReconError
from libmtl_recon.integrations.joint_loss import TaskLosses
from libmtl_recon.weighting.step import StepResult
from libmtl_recon.weighting.step_losses import Losses

try:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.strategies import SingleDeviceStrategy
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lightning":
        raise
    raise MissingPackageError(
        "libmtl_recon.integrations.lightning", "lightning>=2.4", "lightning"
    ) from error

__all__ = ["MultiTaskModule"]

_STATE = "libmtl_recon"


class MultiTaskModule(LightningModule):
    """A LightningModule whose tasks' gradients are weighed, or whose conflicts are counted.

    Override one of :meth:`configure_weighting` and :meth:`configure_probe`, and have
    ``training_step`` return ``self.joint_loss(losses)`` in the place of the losses' sum. All else
    stays Lightning's: precision, accumulated batches, clipping, optimizers, checkpoints. With
    manual optimization pass it to ``self.manual_backward``.

    The weights are logged as ``weight/TASK`` with every step that is weighed; what the last one has
    found is :attr:`step_result`. A weighting's state, if it has ``state_dict`` and
    ``load_state_dict``, is kept in checkpoints.

    It trains on one device: with other strategies than Lightning's for a single device,
    processes would weigh by gradients of their own, and it refuses them.

    Example:
        >>> from libmtl_recon import gradops_weights
        >>> class Classifier(MultiTaskModule):
        ...     def configure_weighting(self):
        ...         return gradops_weights
        ...     def training_step(self, batch, batch_index):
        ...         return self.joint_loss(self.losses(batch))  # a dict by task
    """

    def configure_weighting(self) -> Any:
        """What weighs the tasks' gradients, as for :func:`libmtl_recon.step`; None: nothing does.

        Called once.
        """
        return None

    def configure_probe(self) -> Any:
        """The :class:`libmtl_recon.ConflictProbe` that counts conflicts; None: they are not.

        Called once.
        """
        return None

    def configure_shared(self) -> Iterable[nn.Parameter] | None:
        """The shared parameters that are weighed for; None: those that two losses reach.

        Called once.
        """
        return None

    def joint_loss(self, losses: Losses) -> Tensor:
        """What ``training_step`` is to return, or ``manual_backward`` to be given.

        Args:
            losses: A dict by task, or a list, of scalars with their graphs; None for a task that is
                absent in this step. They may be weighted, and other terms added to what is
                returned.

        Returns:
            A scalar: the sum of the losses.

        Raises:
            UsageError: A loss is no finite scalar with a graph, or both a weighting and a probe are
                configured.
            ReconError: The strategy is not for a single device.
        """
        joined = self._task_losses.join(losses)
        self._refuse_strategies()
        return joined.to(self.device)

    @property
    def weighting(self) -> Any:
        """What :meth:`configure_weighting` has returned."""
        return self._task_losses.weighting

    @property
    def probe(self) -> Any:
        """What :meth:`configure_probe` has returned."""
        return self._task_losses.probe

    @property
    def step_result(self) -> StepResult | None:
        """The weights and the Gramian of the last step; None before the first."""
        return self._task_losses.result

    def on_fit_start(self) -> None:
        """Refuse what cannot be trained."""
        super().on_fit_start()
        self._refuse_strategies()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """As Lightning's; then weigh or score the losses that were joined."""
        super().backward(loss, *args, **kwargs)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        found = self._task_losses.backward(self, may_overflow=scaler is not None)
        if found is not None and found.finite:
            self.log_dict({f"weight/{task}": w for task, w in found.named_weights().items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of the weighting and the probe."""
        super().on_save_checkpoint(checkpoint)
        state = self._task_losses.state_dict()
        if state:
            checkpoint[_STATE] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it up."""
        super().on_load_checkpoint(checkpoint)
        self._task_losses.load_state_dict(checkpoint.get(_STATE, {}))

    @property
    def _task_losses(self) -> TaskLosses:
        found = self.__dict__.get("_libmtl_recon")
        if found is None:
            found = TaskLosses(
                self.configure_weighting(), self.configure_probe(), self.configure_shared()
            )
            self.__dict__["_libmtl_recon"] = found
        return found

    def _refuse_strategies(self) -> None:
        used = self._task_losses.weighting is not None or self._task_losses.probe is not None
        strategy = self.trainer.strategy
        if used and not isinstance(strategy, SingleDeviceStrategy):
            raise ReconError(
                "The tasks' gradients are weighted and scored on one device, but the trainer's "
                f"strategy is {type(strategy).__name__}, with which each process would use its own "
                "part of a batch as if it were all of it. Use Trainer(devices=1, strategy='auto')."
            )
