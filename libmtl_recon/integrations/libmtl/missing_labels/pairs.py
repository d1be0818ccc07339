"""A task's predictions and labels without the samples that lack the label."""

from __future__ import annotations

from typing import Any

from libmtl_recon.integrations.libmtl.missing_labels.masked import Masked
from libmtl_recon.integrations.libmtl.missing_labels.rows import labelled_rows, take_rows


def labelled(task: str, prediction: Any, label: Any) -> tuple[Any, Any] | None:
    """Return a batch's predictions and labels of one task for the samples that have a label.

    Returns:
        Both, as the very same objects if no label is missing; None if all are missing.

    Raises:
        ReconError: Some are missing, and it cannot be determined which prediction belongs to
            which sample.
    """
    found = labelled_rows(label)
    content = label.label if isinstance(label, Masked) else label
    if found is None:
        return prediction, content
    samples, rows = found
    if len(rows) == 0:
        return None
    return (
        take_rows(prediction, samples, rows, f"the prediction of task {task!r}"),
        take_rows(content, samples, rows, f"the label of task {task!r}"),
    )
