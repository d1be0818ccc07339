"""Replace methods of one model by other functions, without affecting copies of the model."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any


def replace(model: Any, **functions: Callable[..., Any]) -> None:
    """Make a model, but no copy of it, call other functions instead of its methods.

    Scripts copy models, and whole Trainers, at any time: for each fold, or at the best epoch. A
    function bound to this model would make the copy train with the gradients of this one.

    Args:
        model: Any object with methods.
        **functions: The functions, by the method's name.
    """
    for name, function in functions.items():
        setattr(model, name, _Replaced(model, name, function))


def restore(model: Any, *names: str) -> None:
    """Undo :func:`replace`; what is not replaced is left as it is."""
    for name in names:
        vars(model).pop(name, None)


class _Replaced:
    def __init__(self, model: Any, name: str, function: Callable[..., Any]) -> None:
        self._model, self._name, self._function = model, name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        # The copy of the model exists before the objects that it holds.
        copied = memo.get(id(self._model), self._model)
        return MethodType(getattr(type(copied), self._name), copied)
