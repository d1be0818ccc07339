"""Every weighting with every architecture: trains by its closed form, or is refused."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL
import pytest

from benchmarks.compatibility.cells import Cell, run_cell, weighting_names
from libmtl_recon.plugin.features import detect

pytestmark = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="LibMTL's main branch is tested by the script itself"
)


@pytest.mark.parametrize("weighting", weighting_names())
def test_a_weighting_trains_by_its_closed_form(weighting: str) -> None:
    verdict = run_cell(Cell(weighting, "HPS", 2, rep_grad=weighting == "GradDrop"))
    assert (verdict.kind, verdict.reason, verdict.checked) == ("trains", "", True)
