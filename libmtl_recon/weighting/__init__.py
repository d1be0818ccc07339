"""Weightings of tasks from a Gramian of task gradients or from losses, with torch alone."""

from __future__ import annotations

from libmtl_recon.weighting.aligned_mtl import aligned_mtl_weights
from libmtl_recon.weighting.cagrad import cagrad_weights
from libmtl_recon.weighting.fairgrad import fairgrad_weights
from libmtl_recon.weighting.gradnorm import GradNorm
from libmtl_recon.weighting.gradops import gradops_weights
from libmtl_recon.weighting.gradvac import GradVac, gradvac_weights
from libmtl_recon.weighting.imtl import imtl_g_weights
from libmtl_recon.weighting.mgda import mgda_weights
from libmtl_recon.weighting.nash_mtl import NashMTL, nash_mtl_weights
from libmtl_recon.weighting.pcgrad import pcgrad_weights
from libmtl_recon.weighting.rotation import fold_rotation
from libmtl_recon.weighting.rotograd import RotoGrad
from libmtl_recon.weighting.upgrad import upgrad_weights

__all__ = [
    "GradNorm",
    "GradVac",
    "NashMTL",
    "RotoGrad",
    "aligned_mtl_weights",
    "cagrad_weights",
    "fairgrad_weights",
    "fold_rotation",
    "gradops_weights",
    "gradvac_weights",
    "imtl_g_weights",
    "mgda_weights",
    "nash_mtl_weights",
    "pcgrad_weights",
    "upgrad_weights",
]
