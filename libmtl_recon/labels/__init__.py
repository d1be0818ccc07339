"""Labels that some samples lack: how a data set says so, and which samples remain."""

from __future__ import annotations

from libmtl_recon.labels.masked import Masked
from libmtl_recon.labels.rows import labelled_rows, take_rows

__all__ = ["Masked", "labelled_rows", "take_rows"]
