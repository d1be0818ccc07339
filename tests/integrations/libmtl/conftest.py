from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The helpers beside the tests, which are no package.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def float64_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """New tensors are float64, and Trainers train on the CPU."""
    import torch

    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
