"""Gradient weightings and conflict scores for Lightning (https://lightning.ai).

This needs the package ``lightning``: ``pip install 'libmtl-recon[lightning]'``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from libmtl_recon.errors import MissingPackageError, ReconError
from libmtl_recon.integrations.joint_loss import TaskLosses, WithTaskLosses
from libmtl_recon.weighting.step_losses import Losses

try:
    from lightning.pytorch import LightningModule
    from lightning.pytorch.strategies import SingleDeviceStrategy
    from lightning.pytorch.trainer.states import TrainerFn
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lightning":
        raise
    raise MissingPackageError(
        "libmtl_recon.integrations.lightning", "lightning>=2.4", "lightning"
    ) from error

__all__ = ["MultiTaskModule"]

_STATE = "libmtl_recon"


class MultiTaskModule(WithTaskLosses, LightningModule):
    """A LightningModule that weights the tasks' gradients, or counts their conflicts.

    Override :meth:`configure_weighting` or :meth:`configure_probe`, and return
    ``self.joint_loss(losses)`` from ``training_step`` instead of the losses' sum. Everything else
    is unchanged: precision, accumulated batches, clipping, optimizers, checkpoints. With manual
    optimization, pass the joint loss to ``self.manual_backward``.

    The weights are logged as ``weight/TASK`` with every weighted step; the result of the last one
    is :attr:`step_result`. The state of a weighting with ``state_dict`` and ``load_state_dict`` is
    kept in checkpoints.

    It trains on one device. Strategies other than those for a single device are refused, since each
    process would compute the weights from its own gradients.

    Example:
        >>> from libmtl_recon import gradops_weights
        >>> class Classifier(MultiTaskModule):
        ...     def configure_weighting(self):
        ...         return gradops_weights
        ...     def training_step(self, batch, batch_index):
        ...         return self.joint_loss(self.losses(batch))  # a dict by task
    """

    def configure_weighting(self) -> Any:
        """Return the weighting, as for :func:`libmtl_recon.step`; None for no weighting.

        It is called once.
        """
        return None

    def configure_probe(self) -> Any:
        """Return the :class:`libmtl_recon.ConflictProbe` that counts conflicts; None for none.

        It is called once.
        """
        return None

    def configure_shared(self) -> Iterable[nn.Parameter] | None:
        """Return the shared parameters; None: those that at least two losses reach.

        It is called once.
        """
        return None

    def joint_loss(self, losses: Losses) -> Tensor:
        """Return the loss for ``training_step`` to return, or for ``manual_backward``.

        Args:
            losses: Scalars with their graphs: a dict by task, or a list; None for a task that is
                absent in this step. They may be multiplied by factors, and other terms may be
                added to the result.

        Returns:
            A scalar: the sum of the losses.

        Raises:
            UsageError: A loss is not a finite scalar with a graph, or both a weighting and a probe
                are configured.
            ReconError: The strategy is not for a single device.
        """
        joined = self._task_losses.join(losses)
        self._refuse_strategies()
        return joined.to(self.device)

    def on_fit_start(self) -> None:
        """Check the configuration and the strategy."""
        super().on_fit_start()
        self._refuse_strategies()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Run Lightning's backward pass, then weight or score the joined losses."""
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
        """Load the state of the weighting and the probe.

        Raises:
            ReconError: A training would continue without the state that it had.
        """
        super().on_load_checkpoint(checkpoint)
        # Without a training that continues, only weights may be wanted of another one.
        continues = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if _STATE in checkpoint or continues:
            self._task_losses.load_state_dict(checkpoint.get(_STATE, {}))

    @cached_property
    def _task_losses(self) -> TaskLosses:  # type: ignore[override]  # made on first use
        return TaskLosses(
            self.configure_weighting(), self.configure_probe(), self.configure_shared()
        )

    def _refuse_strategies(self) -> None:
        used = self._task_losses.weighting is not None or self._task_losses.probe is not None
        strategy = self.trainer.strategy
        if used and not isinstance(strategy, SingleDeviceStrategy):
            raise ReconError(
                "The tasks' gradients are weighted and scored on one device, but the trainer's "
                f"strategy is {type(strategy).__name__}, with which each process would use its own "
                "part of a batch as if it were all of it. Use Trainer(devices=1, strategy='auto')."
            )
