"""Per-task gradients of the shared parameters, and what is read off them: T losses in, rows out.

:func:`task_gradients` differentiates T scalar losses with respect to the parameters that the tasks
share, of any module, into the rows of a matrix ``[T, d]``; :class:`TaskRows` does so step after
step in the same memory. Of the rows, :func:`gramian` and :func:`layer_gramians` have the inner
products, and :func:`cosines` the angles. :func:`scatter_gradient` hands a combination of the rows
out to the parameters' ``.grad``.

:func:`recording` finds the Gramian of any network's tasks without these rows where that is cheaper,
and makes the update by one backward pass.

Columns are the parameters flattened, in order; a complex parameter takes two for each number, a
frozen one has zeros, and rows are dense also where gradients are sparse. Gramians are float64.
Needs torch alone.
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
