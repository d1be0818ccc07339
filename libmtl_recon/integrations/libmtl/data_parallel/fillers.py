"""Samples that only fill an empty part of a batch, and count for nothing.

They are known by their labels, of which there are none, and in the forward pass, where batch norms
must leave them out, by the tensors of their data.
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
_inside = False
_seen = False
# Whether one has passed since the last backward pass.
_passed = False


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
    global _seen, _passed
    filler = is_filler((args, kwargs))
    _seen = _seen or filler
    _passed = _passed or (filler and torch.is_grad_enabled())
    with passing(filler):
        return proceed(model, *args, **kwargs)


def was_known() -> bool:
    """Whether a forward pass since the last call of this function was known as one of a filler."""
    global _seen
    known, _seen = _seen, False
    return known


def end_step() -> None:
    """Note that the backward passes of a step have ended."""
    global _passed
    _passed = False


def refuse_again() -> None:
    """Refuse a forward pass that a backward pass makes again, as gradient checkpoints do.

    Of several inputs it is not known whether this one is a filler.

    Raises:
        ReconError: One was.
    """
    if _passed and torch._C._current_graph_task_id() != -1:
        raise ReconError(
            "A batch has fewer samples than there are ranks, and the network computes batch norms "
            "again in its backward pass (torch.utils.checkpoint), which would count the sample "
            "that a rank without any got in its place. Use drop_last=True, or a batch size that "
            "leaves a last batch with a sample for each rank."
        )
