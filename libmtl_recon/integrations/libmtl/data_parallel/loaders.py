"""Data loaders that give each rank its part of every batch.

Rank 0 draws the batches' indices with the script's sampler, so that their order is that of one
process. Each rank then loads its contiguous slice of each batch. A rank whose slice is empty loads
one sample, since few networks accept none, and gets no labels; its results are ignored.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections import deque
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.integrations.libmtl.data_parallel.fillers import mark_filler
from libmtl_recon.integrations.libmtl.loaders import AroundLoader

_logger = logging.getLogger(__name__)

# Persistent workers stay with a loader, which LibMTL passes again for every evaluation.
_kept: WeakKeyDictionary[Any, _Slices] = WeakKeyDictionary()


def sliced(loader: Any, ranks: Ranks, device: torch.device) -> SlicedLoader:
    """Return a loader that gives this rank's part of each of a loader's batches.

    Args:
        loader: The script's: a :class:`torch.utils.data.DataLoader`, or any object that has a
            length and can be iterated. Batches are pairs of data and labels.
        ranks: The ranks, all of which make the same calls.
        device: The network's device.

    Raises:
        ReconError: The loader already gives each rank different samples.
    """
    if isinstance(loader, SlicedLoader):
        return loader
    for owner in (loader, getattr(loader, "batch_sampler", None)):
        sampler = getattr(owner, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            raise ReconError(
                "The data loader has a DistributedSampler, which repeats or drops samples and "
                "gives each rank its own batches. Leave it out: with any other sampler, each rank "
                "gets its part of every batch, in the order of one process."
            )
    return SlicedLoader(loader, ranks, device)


@functools.cache
def _tell_of_whole_batches() -> None:
    _logger.info(
        "Recon: a data loader draws no indices, so that rank 0 loads whole batches and sends each "
        "rank its part"
    )


class SlicedLoader(AroundLoader):
    """This rank's part of a loader; made by :func:`sliced`."""

    def __init__(self, loader: Any, ranks: Ranks, device: torch.device) -> None:
        super().__init__(loader)
        self._ranks, self._device = ranks, device
        self._by_index = (
            isinstance(loader, DataLoader)
            and loader.batch_sampler is not None
            and not isinstance(loader.dataset, IterableDataset)
        )
        if not self._by_index:
            _tell_of_whole_batches()

    def __iter__(self) -> Iterator[Any]:
        # Not a generator: a loader's workers, and its draws, begin with `iter`.
        if not self._by_index:
            return _of_whole_batches(self.loader, self._ranks, self._device)
        slices = _kept.get(self.loader)
        if slices is None:
            slices = _kept[self.loader] = _Slices(self.loader, self._ranks)
        return _Parts(slices, self._device)


class _Slices:
    """Copy of a loader whose batch sampler gives this rank's part of each batch."""

    def __init__(self, loader: DataLoader[Any], ranks: Ranks) -> None:
        self.sampler = _SlicedSampler(loader.batch_sampler, ranks)
        self.loader = copy.copy(loader)
        # A loader does not allow setting another sampler as an attribute; its copy's dict does.
        vars(self.loader).update(batch_sampler=self.sampler, _iterator=None)
        if hasattr(loader, "in_order"):  # else the ranks' parts would be of different batches
            self.loader.in_order = True


class _SlicedSampler:
    def __init__(self, batches: Any, ranks: Ranks) -> None:
        self.batches, self._ranks = batches, ranks
        self.widths: deque[int] = deque()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        self.widths.clear()
        own = iter(self.batches) if self._ranks.is_first else None
        for batch in _drawn_by_first(own, self._ranks):
            yield self._part(batch)

    def _part(self, batch: Any) -> Any:
        if not hasattr(batch, "__getitem__") or isinstance(batch, dict | str):
            raise ReconError(
                f"The batch sampler {type(self.batches).__name__} gives batches of the type "
                f"{type(batch).__name__}, which cannot be divided among ranks. Return lists of "
                "indices from it."
            )
        share = self._ranks.share_of(len(batch))
        self.widths.append(share.stop - share.start)
        return batch[share] if self.widths[-1] else batch[:1]


class _Parts:
    def __init__(self, slices: _Slices, device: torch.device) -> None:
        self._widths = slices.sampler.widths
        self._iterator = iter(slices.loader)
        self._device = device

    def __iter__(self) -> _Parts:
        return self

    def __next__(self) -> Any:
        batch = next(self._iterator)
        return batch if self._widths.popleft() else _filler(batch, self._device)


def _of_whole_batches(loader: Any, ranks: Ranks, device: torch.device) -> Iterator[Any]:
    own = iter(loader) if ranks.is_first else None
    return (_part(batch, ranks, device) for batch in _drawn_by_first(own, ranks))


def _drawn_by_first(own: Iterator[Any] | None, ranks: Ranks) -> Iterator[Any]:
    """Yield on all ranks what rank 0's iterator yields, one item at a time, on request."""
    while True:
        drawn = None if own is None else next(own, None)
        with ranks.sending("batches"):
            batch = ranks.from_first(drawn)
        if batch is None:
            return
        yield batch


def _part(batch: Any, ranks: Ranks, device: torch.device) -> Any:
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.ndim]
    length = len(tensors[0]) if tensors else 0
    if not length or any(len(leaf) != length for leaf in tensors):
        raise ReconError(
            "A batch cannot be divided among ranks: the tensors of its data and labels must have "
            f"the same length (got {[list(leaf.shape) for leaf in tensors]})."
        )
    share = ranks.share_of(length)
    empty = share.start == share.stop
    kept = slice(0, 1) if empty else share
    part = tree_map(
        lambda leaf: leaf[kept] if isinstance(leaf, Tensor) and leaf.ndim else leaf, batch
    )
    return _filler(part, device) if empty else part


def _filler(batch: Any, device: torch.device) -> Any:
    """Return a batch of one sample that contributes nothing: it has no labels."""
    data, labels = batch
    data = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, data)
    mark_filler(data)
    return data, tree_map(lambda leaf: leaf[:0] if isinstance(leaf, Tensor) else leaf, labels)
