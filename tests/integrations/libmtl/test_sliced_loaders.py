"""The parts of a loader's batches, as one rank has them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, TensorDataset

from libmtl_recon.gradients.ranks import Ranks, shares
from libmtl_recon.integrations.libmtl.data_parallel.loaders import _Slices


class First:
    """The first of two ranks, which draws."""

    is_first = True

    def sending(self, _: str) -> AbstractContextManager[None]:
        return nullcontext()

    def from_first(self, value: Any) -> Any:
        return value

    def share_of(self, length: int) -> slice:
        return shares(length, 2)[0]


def slices(**how: Any) -> _Slices:
    data = TensorDataset(torch.arange(9))
    return _Slices(DataLoader(data, batch_size=4, **how), cast("Ranks", First()))


def test_batches_that_were_drawn_ahead_and_never_loaded_are_forgotten() -> None:
    sampler = slices().sampler
    ahead = iter(sampler)
    assert [next(ahead), next(ahead)] == [[0, 1], [4, 5]]
    assert list(sampler) == [[0, 1], [4, 5], [8]]
    assert list(sampler.widths) == [2, 2, 1]


def test_parts_come_in_the_order_of_their_batches() -> None:
    assert slices(in_order=False).loader.in_order is True
