from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# The helpers beside the tests, which are no package; and the root, for those of the benchmarks.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """LibMTL's MTAN takes narrow networks; and all is in float64."""
    import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

    # isort: split

    from benchmarks.compatibility.networks import NarrowNumpy

    monkeypatch.setattr(sys.modules["LibMTL.architecture.MTAN"], "np", NarrowNumpy())
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
