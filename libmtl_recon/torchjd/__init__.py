"""This library's weightings for TorchJD (https://torchjd.org), and TorchJD's for its Gramians.

This needs the package ``torchjd``: ``pip install 'libmtl-recon[torchjd]'``.
"""

from __future__ import annotations

from libmtl_recon.errors import MissingPackageError

try:
    import torchjd.linalg  # noqa: F401
except ModuleNotFoundError as error:
    if error.name not in ("torchjd", "torchjd.linalg"):
        raise
    raise MissingPackageError("libmtl_recon.torchjd", "torchjd>=0.18", "torchjd") from error

from libmtl_recon.torchjd.functions import FunctionAggregator, FunctionWeighting, NashMTLWeighting
from libmtl_recon.torchjd.gradops import GradOPS, GradOPSWeighting
from libmtl_recon.torchjd.gramians import gramian_weights

__all__ = [
    "FunctionAggregator",
    "FunctionWeighting",
    "GradOPS",
    "GradOPSWeighting",
    "NashMTLWeighting",
    "gramian_weights",
]
