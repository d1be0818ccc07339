"""Weightings in terms of torch alone: of a Gramian of task gradients, or of losses."""

from __future__ import annotations

from libmtl_recon.weighting.aligned_mtl import aligned_mtl_weights
from libmtl_recon.weighting.cagrad import cagrad_weights
from libmtl_recon.weighting.gradops import gradops_weights
from libmtl_recon.weighting.gradvac import gradvac_weights
from libmtl_recon.weighting.imtl import imtl_weights
from libmtl_recon.weighting.mgda import mgda_weights
from libmtl_recon.weighting.nash_mtl import nash_mtl_weights
from libmtl_recon.weighting.pcgrad import pcgrad_weights
from libmtl_recon.weighting.rotation import fold_rotation
from libmtl_recon.weighting.rotograd import RotoGrad

__all__ = [
    "RotoGrad",
    "aligned_mtl_weights",
    "cagrad_weights",
    "fold_rotation",
    "gradops_weights",
    "gradvac_weights",
    "imtl_weights",
    "mgda_weights",
    "nash_mtl_weights",
    "pcgrad_weights",
]
