"""Learning to Branch draws its branches in each forward pass: all ranks use rank 0's draws."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.data_parallel.randomness import drawing_as_first


def draw_alike(proceed: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Wrap a model's forward pass: with LibMTL's LTB, draw what rank 0 draws.

    Other networks draw separately for each sample, as dropout does, and differ between ranks.
    """
    group = ranks()
    model_class: Any = type(model)
    if group is None or not _branches(model_class):
        return proceed(model, *args, **kwargs)
    with drawing_as_first(group, next(model.parameters()).device):
        return proceed(model, *args, **kwargs)


@functools.lru_cache(maxsize=64)
def _branches(model: type) -> bool:
    return any(one.__module__ == "LibMTL.architecture.LTB" for one in model.__mro__)
