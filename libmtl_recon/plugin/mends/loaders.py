"""LibMTL calls ``iterator.next()`` inside a bare ``except``.

PyTorch's iterators have no ``next`` any more, and the bare ``except`` takes whatever the data
loading raised, Ctrl-C included, for the end of an epoch: the error is lost and the batch is
drawn again. The loaders are wrapped in ones whose iterators have a ``next`` and which raise a
lost error again as soon as LibMTL starts the next pass over the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from libmtl_recon.plugin.features import source_of
from libmtl_recon.plugin.mends.mend import Mend


class Loader:
    """A data loader of the script's, as LibMTL may iterate it."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.lost: BaseException | None = None

    def __iter__(self) -> LoaderIterator:
        if self.lost is not None:
            lost, self.lost = self.lost, None
            raise lost
        return LoaderIterator(self, iter(self.loader))

    def __len__(self) -> int:
        return len(self.loader)


class LoaderIterator:
    """One pass over a :class:`Loader`."""

    def __init__(self, owner: Loader, iterator: Iterator[Any]) -> None:
        self.owner = owner
        self.iterator = iterator

    def __iter__(self) -> LoaderIterator:
        return self

    def __next__(self) -> Any:
        try:
            return next(self.iterator)
        except StopIteration:
            raise
        except BaseException as error:
            # LibMTL's bare `except` swallows it; Loader.__iter__ brings it back.
            self.owner.lost = error
            raise

    next = __next__


def _needed(libmtl: ModuleType) -> bool:
    source = source_of(libmtl.Trainer._process_data)
    return ".next()" in source or "except:" in source


def _apply(libmtl: ModuleType) -> None:
    prepare = libmtl.Trainer._prepare_dataloaders

    def _prepare_dataloaders(self: Any, dataloaders: Any) -> Any:
        if isinstance(dataloaders, dict):
            return prepare(self, {task: Loader(own) for task, own in dataloaders.items()})
        return prepare(self, Loader(dataloaders))

    libmtl.Trainer._prepare_dataloaders = _prepare_dataloaders


MEND = Mend(
    name="iterator-next",
    reason="LibMTL calls iterator.next(), and takes any error of the data loading for its end",
    needed=_needed,
    apply=_apply,
)
