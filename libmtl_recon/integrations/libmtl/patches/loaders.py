"""LibMTL calls ``iterator.next()`` inside a bare ``except``.

PyTorch's iterators have no ``next`` any more, and the bare ``except`` takes whatever the data
loading raised, Ctrl-C included, for the end of an epoch: the error is lost and the batch is
drawn again. The loaders are wrapped in ones whose iterators have a ``next`` and which, asked for
another pass by code that has just caught such an error, raise it again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


class Loader:
    """A data loader of the script's, as LibMTL may iterate it."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> LoaderIterator:
        caught = sys.exc_info()[1]
        if (
            caught is not None
            and not isinstance(caught, StopIteration)
            and caught.__traceback__ is not None
            # Caught by our very caller, and not by something around the whole training.
            and caught.__traceback__.tb_frame is sys._getframe(1)
        ):
            raise caught
        return LoaderIterator(iter(self.loader))

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        # A script's own Trainer may ask for the batch size, the data set, the sampler.
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


class LoaderIterator:
    """One pass over a :class:`Loader`."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator

    def __iter__(self) -> LoaderIterator:
        return self

    def __next__(self) -> Any:
        return next(self.iterator)

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


PATCH = Patch(
    name="iterator-next",
    reason="LibMTL calls iterator.next(), and takes any error of the data loading for its end",
    needed=_needed,
    apply=_apply,
)
