"""Traverse values inside tuples, lists, dicts and dataclasses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor

# What most arguments of torch functions are, for speed.
LEAVES = (Tensor, int, float, str, NoneType, torch.dtype, torch.device)


def leaves(value: Any) -> list[Any]:
    """Return the leaves of a value; the value itself if it is a leaf."""
    found: list[Any] = []
    _collect(value, found)
    return found


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value with each of its leaves replaced; the same object if none was.

    Args:
        value: The value, which is not changed.
        change: A function that returns the replacement of a leaf, or the leaf itself.
    """
    if isinstance(value, LEAVES):
        return change(value)
    if isinstance(value, tuple | list):
        items = [mapped(item, change) for item in value]
        same = all(new is old for new, old in zip(items, value, strict=True))
        return value if same else rebuilt(value, items)
    named = _named(value)
    if named is None:
        return change(value)
    changed = {name: mapped(item, change) for name, item in named.items()}
    same = all(changed[name] is item for name, item in named.items())
    return value if same else updated(value, changed)


def rebuilt(like: Any, items: Iterable[Any]) -> Any:
    """Return a tuple or list of the type of another one."""
    # Named tuples take their items one by one, all other sequences as one iterable.
    return getattr(type(like), "_make", type(like))(items)


def updated(like: Any, items: dict[Any, Any]) -> Any:
    """Return a copy of a dict or dataclass with other items."""
    made = copy.copy(like)
    for name, item in items.items():
        if isinstance(made, dict):
            made[name] = item  # `update` is forbidden by some, by Transformers' outputs
        else:
            object.__setattr__(made, name, item)  # it may be frozen
    return made


def _collect(value: Any, found: list[Any]) -> None:
    if isinstance(value, LEAVES):
        found.append(value)
        return
    if isinstance(value, tuple | list):
        for item in value:
            _collect(item, found)
        return
    named = _named(value)
    if named is None:
        found.append(value)
        return
    for item in named.values():
        _collect(item, found)


def _named(value: Any) -> dict[Any, Any] | None:
    """Return the items of a dict or dataclass."""
    if isinstance(value, dict):
        return value
    if not is_dataclass(value) or isinstance(value, type):
        return None
    names = (field.name for field in fields(value))
    return {name: getattr(value, name) for name in names if hasattr(value, name)}
