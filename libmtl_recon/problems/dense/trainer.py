"""LibMTL's Trainer for predictions with a value per pixel."""

from __future__ import annotations

from typing import Any

from LibMTL import Trainer
from torch import Tensor
from torch.nn import functional

from libmtl_recon import Masked


class DenseTrainer(Trainer):  # type: ignore[misc]  # LibMTL is untyped
    """LibMTL's Trainer, which resizes each prediction to its label's size.

    A network may predict at any resolution, for images of any size; losses and metrics see one
    prediction per pixel of the label. Predictions are resized bilinearly with aligned corners, as
    in LibMTL's own examples.
    """

    def _process_data(self, loader: Any) -> Any:
        """Note the sizes of the labels, which LibMTL does not pass to ``process_preds``."""
        data, labels = super()._process_data(loader)
        self._sizes = {task: _size(labels[task]) for task in self.task_name}
        return data, labels

    def process_preds(self, preds: Any, task_name: str | None = None) -> Any:
        """Resize the predictions of the last batch.

        Args:
            preds: ``[B, C, h, w]`` per task.
            task_name: None, because these tasks share their input images.

        Returns:
            ``[B, C, H, W]`` per task.
        """
        for task, size in self._sizes.items():
            preds[task] = resized(preds[task], size)
        return preds


def resized(pred: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``[B, C, h, w]`` resized to ``[B, C, *size]``; the same tensor if it has that size."""
    if tuple(pred.shape[-2:]) == size:
        return pred
    return functional.interpolate(pred, size, mode="bilinear", align_corners=True)


def _size(label: Any) -> tuple[int, int]:
    content: Tensor = label.label if isinstance(label, Masked) else label
    height, width = content.shape[-2:]
    return height, width
