"""Deprecated alias of :mod:`libmtl_recon.integrations.libmtl.weightings`."""

from __future__ import annotations

from libmtl_recon._deprecated import stand_in

__getattr__ = stand_in(__name__)
