"""Weightings, in terms of torch alone: what each task's gradient is multiplied by, and RotoGrad."""

from __future__ import annotations

from libmtl_recon.weighting.cagrad import cagrad_weights
from libmtl_recon.weighting.gradops import gradops_weights
from libmtl_recon.weighting.gradvac import gradvac_weights
from libmtl_recon.weighting.pcgrad import pcgrad_weights
from libmtl_recon.weighting.rotation import fold_rotation
from libmtl_recon.weighting.rotograd import RotoGrad

__all__ = [
    "RotoGrad",
    "cagrad_weights",
    "fold_rotation",
    "gradops_weights",
    "gradvac_weights",
    "pcgrad_weights",
]
