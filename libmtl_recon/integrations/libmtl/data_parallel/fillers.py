"""Samples that only fill an empty part of a batch, and count for nothing.

They are known by their labels, of which there are none, and in the forward pass, where batch norms
must leave them out, by the tensors of their data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

_marked: Any = WeakIdKeyDictionary()
_inside = False
_seen = False


def mark_filler(data: Any) -> None:
    """Note that a batch's data is that of a filler."""
    for leaf in tree_leaves(data):
        if isinstance(leaf, Tensor):
            _marked[leaf] = True


def is_filler(data: Any) -> bool:
    """Whether it was noted."""
    return any(isinstance(leaf, Tensor) and leaf in _marked for leaf in tree_leaves(data))


def counts_for_nothing() -> bool:
    """Whether the forward pass that goes on is one of a filler."""
    return _inside


@contextmanager
def passing(filler: bool) -> Iterator[None]:
    """Inside the ``with`` block, a forward pass of a filler goes on, or one of samples."""
    global _inside
    before, _inside = _inside, filler
    try:
        yield
    finally:
        _inside = before


def know_fillers(proceed: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Around a model's forward pass: know whether its input is a filler."""
    global _seen
    filler = is_filler((args, kwargs))
    _seen = _seen or filler
    with passing(filler):
        return proceed(model, *args, **kwargs)


def was_known() -> bool:
    """Whether a forward pass since the last call of this function was known as one of a filler."""
    global _seen
    known, _seen = _seen, False
    return known
