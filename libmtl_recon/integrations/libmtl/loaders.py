"""Data loaders that LibMTL can iterate; it calls ``iterator.next()`` in a bare ``except``.

Their iterators have a ``next``; if they are asked for another pass by code that has just caught one
of their errors, they raise it again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


class AroundLoader:
    """Wrapper of a script's data loader, with its length and attributes."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        # A script's own Trainer may read the batch size, the data set, the sampler.
        if name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)


class Loader(AroundLoader):
    """A script's data loader in a form that LibMTL can iterate."""

    def __iter__(self) -> LoaderIterator:
        caught = sys.exc_info()[1]
        if (
            caught is not None
            and not isinstance(caught, StopIteration)
            and caught.__traceback__ is not None
            # Caught by the direct caller, and not by something around the whole training.
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
