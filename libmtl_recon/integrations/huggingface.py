"""Gradient weightings and conflict scores for the Trainer of Hugging Face Transformers.

This needs ``transformers`` and ``accelerate``: ``pip install 'libmtl-recon[huggingface]'``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.errors import MissingPackageError, ReconError, UsageError
from libmtl_recon.integrations.joint_loss import TaskLosses, WithTaskLosses
from libmtl_recon.weighting.step_losses import Losses

try:
    from accelerate.utils import DistributedType
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import get_last_checkpoint
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("accelerate", "transformers"):
        raise
    raise MissingPackageError(
        "libmtl_recon.integrations.huggingface",
        "transformers>=5.22 or accelerate>=1.1",
        "huggingface",
    ) from error

if not hasattr(Trainer, "loss_is_scaled_for_ga"):
    raise ReconError(
        "libmtl_recon.integrations.huggingface needs transformers>=5.22, whose Trainer can divide "
        "losses by the number of accumulated batches. Install it with "
        "`pip install 'libmtl-recon[huggingface]'`."
    )

__all__ = ["MultiTaskTrainer"]

_STATE = "libmtl_recon.pt"
# Optimizers that step inside the backward pass, before gradients can be weighted.
_INSIDE = ("lomo", "layerwise")


class MultiTaskTrainer(WithTaskLosses, Trainer):
    """A Trainer that weights the tasks' gradients, or counts their conflicts.

    The model returns a dict of losses by task under ``losses``, or :meth:`compute_task_losses` is
    overridden. Everything else is unchanged: precision, accumulated batches, clipping, checkpoints.
    It can be combined with another Trainer class: ``class Mine(MultiTaskTrainer, MyTrainer)``.

    The weights are logged as ``weight_TASK``, their mean since the last log; the result of the last
    step is :attr:`step_result`. The state of a weighting with ``state_dict`` and
    ``load_state_dict`` is kept in checkpoints, in the file ``libmtl_recon.pt``.

    It trains in one process on one device; other configurations are refused.

    Args:
        weighting: The weighting, as for :func:`libmtl_recon.step`; None for no weighting.
        probe: A :class:`libmtl_recon.ConflictProbe`; None: conflicts are not counted.
        shared: The shared parameters; None: those that at least two losses reach.
        *args: The arguments of the Trainer.
        **kwargs: The keyword arguments of the Trainer.

    Attributes:
        weighting: The weighting.
        probe: The probe.

    Raises:
        UsageError: Both a weighting and a probe are given, or an argument does not fit them.
        ReconError: The training would use several processes or devices.
    """

    # Losses are means over a batch; the Trainer divides them by the number of accumulated batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        weighting: Any = None,
        probe: Any = None,
        shared: Iterable[nn.Parameter] | None = None,
        **kwargs: Any,
    ) -> None:
        self._task_losses = TaskLosses(weighting, probe, shared)
        self._weights: dict[str, list[float]] = defaultdict(list)
        super().__init__(*args, **kwargs)
        self._refuse()
        self.add_callback(_KeepState(self._task_losses))

    def compute_task_losses(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> tuple[Losses, Any]:
        """Compute the losses by task, and the model's outputs.

        Args:
            model: The model.
            inputs: The inputs of the model.
            num_items_in_batch: The number of labels of the accumulated batches, if the Trainer
                counts them. If you divide the losses by it, set ``loss_is_scaled_for_ga = True``.

        Returns:
            The losses, a dict by task or a list of scalars, with None for a task that is absent in
            this batch; and the model's outputs.

        Raises:
            ReconError: The model does not return losses by task.
        """
        outputs = model(**inputs)
        losses = outputs.get("losses") if isinstance(outputs, Mapping) else None
        if not isinstance(losses, Mapping):
            raise ReconError(
                f"The model {type(model).__name__} must return a dict of losses by task under "
                f"'losses', but returned {_shown(outputs)}. Change the model, or override "
                "compute_task_losses of the trainer."
            )
        return losses, outputs

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute the sum of the tasks' losses; in a training step, the joint loss."""
        losses, outputs = self.compute_task_losses(model, inputs, num_items_in_batch, **kwargs)
        loss = self._task_losses.join(losses).to(self.args.device)
        if not return_outputs:
            return loss
        if isinstance(outputs, Mapping):
            # Evaluation gathers the other outputs as predictions.
            outputs = {name: output for name, output in outputs.items() if name != "losses"}
        return loss, outputs

    def training_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Run the Trainer's training step, then weight or score the losses of this batch."""
        loss: Tensor = super().training_step(model, *args, **kwargs)
        found = self._task_losses.backward(
            self.accelerator.unwrap_model(model),
            may_overflow=self.accelerator.scaler is not None,
        )
        if found is not None and found.finite:
            for task, weight in found.named_weights().items():
                self._weights[task].append(weight)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with the mean weights since the last log of the training."""
        if "loss" in logs:
            for task, weights in self._weights.items():
                logs[f"weight_{task}"] = sum(weights) / len(weights)
            self._weights.clear()
        super().log(logs, *args, **kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train as the Trainer does, and load a checkpoint's state of the weighting and probe."""
        checkpoint = resume_from_checkpoint
        if checkpoint is True:
            checkpoint = get_last_checkpoint(self.args.output_dir)
        if checkpoint:
            file = Path(checkpoint) / _STATE
            state = torch.load(file, weights_only=True) if file.is_file() else {}
            self._task_losses.load_state_dict(state)
        return super().train(resume_from_checkpoint, **kwargs)

    def _refuse(self) -> None:
        if self.weighting is None and self.probe is None:
            return
        arguments = self.args
        kind = self.accelerator.distributed_type
        if arguments.world_size > 1 or arguments.n_gpu > 1 or kind != DistributedType.NO:
            raise ReconError(
                "The tasks' gradients are weighted and scored in one process on at most one GPU, "
                f"but this training has the world size {arguments.world_size} and "
                f"{arguments.n_gpu} GPUs ({kind.value}). Start it without a launcher of several "
                "processes, and set CUDA_VISIBLE_DEVICES to one GPU."
            )
        optimizer = str(getattr(arguments.optim, "value", arguments.optim))
        if any(name in optimizer for name in _INSIDE):
            raise UsageError(
                "optim",
                "must be an optimizer that steps after the backward pass",
                optimizer,
                "Choose another one, such as adamw_torch.",
            )
        if self.compute_loss_func is not None or arguments.label_smoothing_factor:
            name = "compute_loss_func" if self.compute_loss_func else "label_smoothing_factor"
            raise UsageError(
                name,
                "cannot be combined with `weighting` and `probe`, which need a loss per task",
                getattr(self, name, None),
                "Override compute_task_losses, and compute the tasks' losses there.",
            )


class _KeepState(TrainerCallback):
    """Callback that writes the state of the weighting and the probe into each checkpoint."""

    def __init__(self, task_losses: TaskLosses) -> None:
        self._task_losses = task_losses

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        content = self._task_losses.state_dict()
        # A hyperparameter search stores its trials elsewhere, and does not resume them.
        if content and folder.is_dir():
            torch.save(content, folder / _STATE)


def _shown(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        return f"a {type(outputs).__name__} of {', '.join(map(str, outputs))}"
    return f"a {type(outputs).__name__}"
