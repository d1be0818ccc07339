"""See what a model's encoder returns: features, or LibMTL's list with an entry for each task.

LibMTL's HPS gives each decoder its task's entry of such a list. Its architectures that mix several
encoders stack what these return, and fail on a list with a TypeError of torch. Only a forward pass
shows what an encoder returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.known_sources import BOTH, is_one_of

# LibMTL's architectures that mix what several encoders return, by version.
_MIXING = {"CGC": BOTH, "DSelect_k": BOTH, "MMoE": BOTH}
# The model's attribute with what was seen: whether its encoder returns a list; None for nothing.
_SEEN = "_libmtl_recon_returns_list"


def see_lists(proceed: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
    """See in a model's first forward pass whether its encoder returns a list.

    Raises:
        UsageError: It does, and the architecture mixes several encoders.
    """
    if _SEEN in vars(model) or torch.compiler.is_compiling():  # whose graph can have no new hooks
        return proceed(model, *args, **kwargs)
    mixing = is_one_of(type(model), _MIXING)
    encoders = list(model.experts_shared) if mixing else [getattr(model, "encoder", None)]
    found: list[bool] = []

    def look(encoder: nn.Module, _: Any, features: Any) -> None:
        if mixing and isinstance(features, list | tuple | dict):
            raise _not_mixed(_name_of(model), encoder, features)
        found.append(isinstance(features, list))

    handles = [one.register_forward_hook(look) for one in encoders if isinstance(one, nn.Module)]
    try:
        result = proceed(model, *args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    setattr(model, _SEEN, any(found) if found else None)
    return result


def returns_list(model: nn.Module) -> bool | None:
    """Return whether a model's encoder returns a list; None if it was not seen to be called."""
    seen: bool | None = vars(model).get(_SEEN)
    return seen


def _name_of(model: nn.Module) -> str:
    return next(one.__name__ for one in type(model).__mro__ if one.__name__ in _MIXING)


def _not_mixed(architecture: str, encoder: nn.Module, features: Any) -> UsageError:
    plain: type = getattr(type(encoder), "_plain_class", type(encoder))
    return UsageError(
        "encoder_class",
        f"must return one tensor for --arch {architecture}, which mixes what several encoders "
        "return",
        f"{plain.__name__}, which returns a {type(features).__name__}",
        "HPS accepts a list with an entry for each task.",
    )
