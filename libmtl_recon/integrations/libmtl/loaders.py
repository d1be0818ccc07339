"""Data loaders that LibMTL may iterate, which calls ``iterator.next()`` in a bare ``except``.

Their iterators have a ``next``; and asked for another pass by code that has just caught an error of
theirs, they raise it again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


class AroundLoader:
    """Stands in for a data loader of the script's, and has its length and attributes."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        # A script's own Trainer may ask for the batch size, the data set, the sampler.
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


class Loader(AroundLoader):
    """A data loader of the script's, as LibMTL may iterate it."""

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


class LoaderIterator:
    """One pass over a :class:`Loader`."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.iterator = iterator

    def __iter__(self) -> LoaderIterator:
        return self

    def __next__(self) -> Any:
        return next(self.iterator)

    next = __next__
