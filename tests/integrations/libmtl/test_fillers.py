"""Forward passes of samples that only fill up a batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from libmtl_recon.errors import ReconError
from libmtl_recon.integrations.libmtl.data_parallel.fillers import (
    counts_for_nothing,
    forget_passes,
    passing,
)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    forget_passes()
    yield
    forget_passes()


@pytest.mark.parametrize("filler", [True, False])
def test_what_a_checkpoint_does_again_is_of_the_same_samples(filler: bool) -> None:
    for _ in range(2):
        with passing(filler):
            assert counts_for_nothing() is filler
    with torch.no_grad(), passing(not filler):
        assert counts_for_nothing() is not filler
    assert counts_for_nothing() is filler
    forget_passes()
    assert not counts_for_nothing()


def test_a_checkpoint_of_one_of_two_kinds_of_passes_is_refused() -> None:
    for filler in (True, False):
        with passing(filler):
            pass
    with pytest.raises(ReconError, match="A checkpoint with batch norms inside it"):
        counts_for_nothing()
