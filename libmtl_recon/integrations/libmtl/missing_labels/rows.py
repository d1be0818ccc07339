"""Find the samples of a batch that have a label, and select their part of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.missing_labels.masked import Masked


def labelled_rows(label: Any) -> tuple[int, Tensor] | None:
    """Return the places of the samples that have a label.

    A sample's label is missing where :attr:`Masked.present` is false, and where all entries of a
    label of floating dtype are NaN. A label with NaN in only some entries (pixels, attributes) is
    present.

    Args:
        label: One task's labels of a batch, of any type; only a :class:`Masked` and a tensor
            ``[B, ...]`` of floating dtype can lack some.

    Returns:
        The number of samples B and the places ``[N]`` (int64, ascending) of those that have a
        label; None if all have one.

    Raises:
        ReconError: ``present`` is not one value per sample.
    """
    masked = isinstance(label, Masked)
    content = label.label if masked else label
    keep = _mask(label.present) if masked else None
    missing = _all_nan(content)
    if missing is not None:
        if keep is None:
            keep = torch.ones(len(content), dtype=torch.bool)
        if len(keep) != len(content):
            raise ReconError(
                f"Masked has {len(content)} labels in a batch, but `present` has {len(keep)} "
                "values. Pass one bool per sample."
            )
        keep = keep.clone()
        keep[missing.cpu()] = False
    if keep is None or bool(keep.all()):
        return None
    return len(keep), keep.nonzero().flatten()


def take_rows(value: Any, samples: int, rows: Tensor, what: str) -> Any:
    """Return the part of a batch that belongs to some of its samples.

    Args:
        value: A tensor ``[B, ...]``; a mapping, list or tuple of these; or a list or tuple of B
            objects, one per sample.
        samples: B.
        rows: The samples' places, int64 ``[N]``.
        what: Description of the value for the message.

    Returns:
        The same kind of value, for N samples; with its graph.

    Raises:
        ReconError: It cannot be determined what belongs to which sample.
    """
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == samples:
        return value.index_select(0, rows.to(value.device))
    if isinstance(value, Mapping):
        return {key: take_rows(item, samples, rows, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _rebuilt(value, _take_items(value, samples, rows, what))
    found = f"of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ReconError(
        f"Some of a batch's {samples} samples lack the label of a task, and {what}, {found}, "
        "cannot be divided into samples. Use a tensor whose first dimension is the samples, a "
        "dict, list or tuple of such tensors, or a list of one object per sample."
    )


def _take_items(value: Sequence[Any], samples: int, rows: Tensor, what: str) -> list[Any]:
    whole = [isinstance(item, Tensor) and item.ndim > 0 and len(item) == samples for item in value]
    if len(value) != samples:
        return [take_rows(item, samples, rows, what) for item in value]
    if all(whole):
        raise ReconError(
            f"Some of a batch's {samples} samples lack the label of a task, and {what} is a list "
            f"of {samples} tensors of {samples} rows each, so that it is not clear which of the "
            "two are the samples. Return a dict of tensors, or one tensor."
        )
    return [value[row] for row in rows.tolist()]


def _rebuilt(value: Sequence[Any], items: list[Any]) -> Any:
    make = getattr(type(value), "_make", None)
    return make(items) if make is not None else type(value)(items)  # type: ignore[call-arg]


def _mask(present: Any) -> Tensor:
    mask = torch.as_tensor(present).detach().cpu()
    if mask.ndim != 1:
        raise ReconError(
            "Masked.present must be one bool per sample, [B] for a batch, but has the shape "
            f"{list(mask.shape)}. For pixels without a label, let the loss skip them."
        )
    return mask.bool()


def _all_nan(label: Any) -> Tensor | None:
    """Return the places of the samples whose entries are all NaN; None if there are none."""
    if not isinstance(label, Tensor) or not label.is_floating_point() or label.ndim == 0:
        return None
    if label.numel() == 0:
        return None
    # For most batches it suffices to check one entry per sample.
    first = label[(slice(None),) + (0,) * (label.ndim - 1)]
    suspects = first.isnan().nonzero().flatten()
    if len(suspects) == 0:
        return None
    missing = (
        label.index_select(0, suspects).isnan().flatten(1).all(dim=1) if label.ndim > 1 else None
    )
    found = suspects if missing is None else suspects[missing]
    return found if len(found) else None
