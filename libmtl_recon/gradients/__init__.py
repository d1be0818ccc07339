"""Per-task gradients of shared parameters, their Gramians and their cosines.

:func:`task_gradients` differentiates T scalar losses with respect to the parameters that the tasks
share, of any module, into the rows of a matrix ``[T, d]``; :class:`TaskRows` does the same in every
step with the same memory. :func:`gramian` and :func:`layer_gramians` compute the inner products of
the rows, and :func:`cosines` their cosines. :func:`scatter_gradient` adds a combination of the rows
to the parameters' ``.grad``.

:func:`recording` computes the Gramian of any network's tasks without these rows where that is
cheaper, and the update by one backward pass.

The columns are the parameters flattened, in order. A complex parameter takes two columns for each
number, a frozen one has columns of zeros, and the rows are dense even where gradients are sparse.
Gramians are float64. Only torch is needed.
"""

from __future__ import annotations

from libmtl_recon.gradients.gramian import (
    cosines,
    exact_device,
    gramian,
    isometric_rows,
    layer_gramians,
    quick_gramian,
)
from libmtl_recon.gradients.per_task import (
    gradients_or_none,
    scatter_gradient,
    task_gradients,
    write_row,
)
from libmtl_recon.gradients.recording import Record, recording
from libmtl_recon.gradients.rows import TaskRows

__all__ = [
    "Record",
    "TaskRows",
    "cosines",
    "exact_device",
    "gradients_or_none",
    "gramian",
    "isometric_rows",
    "layer_gramians",
    "quick_gramian",
    "recording",
    "scatter_gradient",
    "task_gradients",
    "write_row",
]
