"""Samples that only fill an empty part of a batch and contribute nothing.

They are recognised by their labels, of which there are none, and in the forward pass, where batch
norms must leave them out, by the tensors of their data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from libmtl_recon.errors import ReconError

_marked: Any = WeakIdKeyDictionary()
# Whether the current forward pass is one of a filler; None outside of a forward pass.
_inside: bool | None = None
# The same for the forward passes with a graph since the last `backward`.
_passed: set[bool] = set()
_seen = False


def mark_filler(data: Any) -> None:
    """Mark a batch's data as that of a filler."""
    for leaf in tree_leaves(data):
        if isinstance(leaf, Tensor):
            _marked[leaf] = True


def is_filler(data: Any) -> bool:
    """Return whether a batch's data was marked as that of a filler."""
    return any(isinstance(leaf, Tensor) and leaf in _marked for leaf in tree_leaves(data))


def counts_for_nothing() -> bool:
    """Return whether the current forward pass, or its recomputation, is one of a filler.

    Raises:
        ReconError: A checkpoint recomputes one of several passes, not all of which were fillers.
    """
    if _inside is not None:
        return _inside
    if len(_passed) > 1:
        raise ReconError(
            "A checkpoint with batch norms inside it (torch.utils.checkpoint) is recomputed in a "
            "backward pass, where it is not known which task's batch it belongs to, and one "
            "task's batch has fewer samples than there are ranks. Use drop_last=True, or leave "
            "the checkpoint out."
        )
    return True in _passed


def forget_passes() -> None:
    """Forget the forward passes of a step whose graphs are no longer needed."""
    _passed.clear()


@contextmanager
def passing(filler: bool) -> Iterator[None]:
    """Mark the forward pass inside the ``with`` block as one of a filler, or of samples."""
    global _inside
    before, _inside = _inside, filler
    if torch.is_grad_enabled():
        _passed.add(filler)
    try:
        yield
    finally:
        _inside = before


def know_fillers(proceed: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Wrap a model's forward pass: record whether its input is a filler."""
    global _seen
    filler = is_filler((args, kwargs))
    _seen = _seen or filler
    with passing(filler):
        return proceed(model, *args, **kwargs)


def was_known() -> bool:
    """Return whether a forward pass since the last call of this function was a filler's."""
    global _seen
    known, _seen = _seen, False
    return known
