"""The pixels that have a label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError

# Void pixels are -1 in the .npy folders of NYUv2 and CityScapes, and 255 in PNG files.
VOID = (-1, 255)


def class_labels(
    pred: Tensor, label: Tensor, ignore: Sequence[int] = VOID
) -> tuple[Tensor, Tensor]:
    """Return the classes of a label map, and where it has any.

    Args:
        pred: Scores of C classes, ``[B, C, H, W]``.
        label: Classes from 0 to C - 1 or values of ``ignore``, ``[B, H, W]`` or ``[B, 1, H, W]``,
            of an integer or floating dtype; NaN is void, too.
        ignore: The values of void pixels.

    Returns:
        int64 ``[B, H, W]``, where void pixels are 0, and bool ``[B, H, W]``, false for these.

    Raises:
        ReconError: The label's size differs from the prediction's, or a pixel has another value.
    """
    if label.ndim == pred.ndim and label.shape[1] == 1:
        label = label.squeeze(1)
    wanted = (pred.shape[0], *pred.shape[2:])
    if tuple(label.shape) != wanted:
        raise ReconError(
            f"A label of classes must be {list(wanted)}, as the prediction {list(pred.shape)} is, "
            f"but it is {list(label.shape)}. Resize the prediction to the label's size."
        )
    valid = torch.ones_like(label, dtype=torch.bool)
    for value in ignore:
        valid &= label != value
    if label.is_floating_point():
        valid &= ~label.isnan()
    classes = torch.where(valid, label, 0).to(torch.int64)
    if bool(((classes < 0) | (classes >= pred.shape[1])).any()):
        lowest, highest = int(classes.min()), int(classes.max())
        raise ReconError(
            f"A label has classes from {lowest} to {highest}, but the prediction is of "
            f"{pred.shape[1]} classes, 0 to {pred.shape[1] - 1}, and void pixels are "
            f"{' or '.join(map(str, ignore)) or 'none'}. Use the labels of these classes."
        )
    return classes, valid


def measured(label: Tensor) -> Tensor:
    """Return where a map of measurements has one: bool ``[B, 1, H, W]``.

    Args:
        label: ``[B, C, H, W]``, floating. A pixel lacks its label if all its entries are 0, or if
            one of them is NaN or infinite.
    """
    return (label.isfinite().all(1, keepdim=True)) & (label != 0).any(1, keepdim=True)


def mean_over(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of the valid values, a scalar; 0, with a graph, if none is valid.

    Args:
        values: Any shape, finite where it is not valid.
        valid: bool of the same shape.
    """
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)
