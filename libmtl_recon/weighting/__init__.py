"""Weightings: pure functions of a Gramian, and thin LibMTL classes around them."""

from __future__ import annotations

from libmtl_recon.weighting.gradops import gradops_weights

__all__ = ["gradops_weights"]
