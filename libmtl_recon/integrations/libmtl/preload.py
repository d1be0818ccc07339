"""Imported by a server from which runs are forked: loads everything, runs nothing."""

from __future__ import annotations

import LibMTL  # noqa: F401  # brings torch and torchvision, and registers us
import sklearn.datasets  # noqa: F401  # the slowest import of the embedded problem
