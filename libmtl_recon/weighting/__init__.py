"""Weightings: pure functions of a Gramian, and thin LibMTL classes around them."""

from __future__ import annotations

from libmtl_recon.weighting.cagrad import cagrad_weights
from libmtl_recon.weighting.gradops import gradops_weights
from libmtl_recon.weighting.gradvac import gradvac_weights
from libmtl_recon.weighting.pcgrad import pcgrad_weights

__all__ = ["cagrad_weights", "gradops_weights", "gradvac_weights", "pcgrad_weights"]
