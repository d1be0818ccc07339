"""A bundle: T tensors, one a task, that torch functions treat as one tensor.

A torch function that meets a bundle, as a parameter or as an activation that descends from one,
runs once a task and returns a bundle. A module's own ``forward`` needs no change for it.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError

_BINARY_OP = dis.opmap["BINARY_OP"]
_IN_PLACE = {
    number
    for number, (name, _) in enumerate(vars(dis)["_nb_ops"])
    if name.startswith("NB_INPLACE_")
}


class Bundle:
    """One tensor a task, in the order of the tasks.

    Has the attributes, methods and operators of a tensor: each is taken once a task. What is
    not a tensor (a shape, a truth value) must come out the same for every task and is returned
    as it is.

    Args:
        parts: T tensors.

    Example:
        >>> import torch
        >>> both = Bundle([torch.zeros(2), torch.ones(2)])
        >>> [part.tolist() for part in (both * 2 + 1).parts]
        [[1.0, 1.0], [3.0, 3.0]]
        >>> both.shape
        torch.Size([2])
    """

    parts: tuple[Tensor, ...]

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self.parts = tuple(parts)

    # Code that asks `isinstance(x, Tensor)` (DenseNet, for one) must take the tensor's branch.
    @property
    def __class__(self) -> type:
        return Tensor

    @__class__.setter
    def __class__(self, _: type) -> None:
        raise TypeError("The class of a bundle cannot be changed.")

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run a torch function once a task."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if _writes_into_first(name) and args and type(args[0]) is not Bundle:
            # Only `a += b` binds the name anew; elsewhere a copy would be lost in silence.
            if not _called_by_operator(sys._getframe(1)):
                raise _into_plain(name)
            args = (_copies(args[0], args[1:], kwargs), *args[1:])
        if kwargs.get("out") is not None and type(kwargs["out"]) is not Bundle:
            raise _into_plain(f"{name}(out=...)")
        return per_task(func, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        values = [getattr(part, name) for part in self.parts]
        if callable(values[0]) and not isinstance(values[0], Tensor):
            return _Method(self, name)
        return combine(values, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "parts":
            object.__setattr__(self, name, value)
            return
        for index, part in enumerate(self.parts):
            setattr(part, name, pick(value, index))

    def __iter__(self) -> Iterator[Bundle]:
        return (Bundle(slices) for slices in zip(*self.parts, strict=True))

    def __setitem__(self, index: Any, value: Any) -> None:
        per_task(Tensor.__setitem__, (self, index, value), {})

    def __reduce__(self) -> tuple[type, tuple[tuple[Tensor, ...]]]:
        return Bundle, (self.parts,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Bundle:
        from copy import deepcopy

        return Bundle([deepcopy(part, memo) for part in self.parts])

    def __repr__(self) -> str:
        return f"Bundle({list(self.parts)!r})"

    def __format__(self, specification: str) -> str:
        return repr(self)

    __hash__ = object.__hash__


class _Method:
    """A tensor's method, bound to a bundle."""

    def __init__(self, owner: Bundle, name: str) -> None:
        self.owner = owner
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = getattr(type(self.owner.parts[0]), self.name)
        return per_task(function, (self.owner, *args), kwargs)


def per_task(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function once a task, each bundle in its arguments replaced by the task's part.

    Returns:
        The results, combined: a bundle of tensors; tuples, lists and dicts of such; or the one
        value on which all tasks agree.

    Raises:
        ReconError: Bundles of different numbers of tasks meet, or the tasks disagree on a value
            that is no tensor.
    """
    counts = {len(bundle.parts) for bundle in bundles_in((args, kwargs))}
    name = getattr(func, "__name__", repr(func))
    if len(counts) != 1:
        raise ReconError(
            f"{name} met task-specific tensors of {sorted(counts)} tasks at once. All layers of a "
            "network must be split for the same tasks."
        )
    results = [
        func(*(pick(a, task) for a in args), **{k: pick(v, task) for k, v in kwargs.items()})
        for task in range(counts.pop())
    ]
    return combine(results, name)


def bundles_in(value: Any) -> Iterator[Bundle]:
    """The bundles in a value, also inside tuples, lists and dicts."""
    if type(value) is Bundle:
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from bundles_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from bundles_in(item)


def pick(value: Any, task: int) -> Any:
    """A value as one task sees it: each bundle in it replaced by that task's part."""
    if type(value) is Bundle:
        return value.parts[task]
    if not any(True for _ in bundles_in(value)):
        return value
    if isinstance(value, dict):
        return {key: pick(item, task) for key, item in value.items()}
    return type(value)(pick(item, task) for item in value)


def combine(values: Sequence[Any], name: str) -> Any:
    """The results of all tasks as one value; the counterpart of :func:`pick`."""
    first = values[0]
    if all(type(value) is not Bundle and isinstance(value, Tensor) for value in values):
        return first if _one_storage(values) else Bundle(values)
    if isinstance(first, torch.Size) or not isinstance(first, tuple | list | dict):
        if all(type(v) is type(first) and (v is first or v == first) for v in values):
            return first
        raise ReconError(
            f"{name} gave a different value for each task ({', '.join(map(str, values))}), so the "
            "network would have to take a different way for each, which a split network cannot. "
            "Split only layers whose results do not steer Python's control flow."
        )
    if len({len(value) for value in values}) != 1:
        raise ReconError(f"{name} gave results of different lengths for different tasks.")
    if isinstance(first, dict):
        return {key: combine([value[key] for value in values], name) for key in first}
    items = [combine(column, name) for column in zip(*values, strict=True)]
    # Named tuples of torch.return_types take one sequence, as tuple and list do.
    return type(first)(items)


def _one_storage(values: Sequence[Tensor]) -> bool:
    """Whether all tasks got the same tensor, or views of one: then the result is not a task's."""
    first = values[0]
    if len(values) == 1:
        return False
    if all(value is first for value in values):
        return True
    base = first._base
    return base is not None and all(value._base is base for value in values)


def _writes_into_first(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"


def _called_by_operator(frame: Any) -> bool:
    """Whether the frame is just executing an operator such as ``+=``."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return code[at] == _BINARY_OP and code[at + 1] in _IN_PLACE


def _copies(plain: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bundle:
    tasks = len(next(bundles_in((args, kwargs))).parts)
    return Bundle([plain.clone() for _ in range(tasks)])


def _into_plain(name: str) -> ReconError:
    return ReconError(
        f"{name} would write values that differ between tasks into a tensor that all tasks share. "
        "Write it as a new tensor, such as `x = x + y` instead of `x.add_(y)`, or torch.where "
        "instead of assigning to an index; or leave the layer before it shared."
    )


def _operator(name: str) -> Callable[..., Any]:
    def operator(self: Bundle, *others: Any) -> Any:
        return per_task(getattr(Tensor, name), (self, *others), {})

    operator.__name__ = name
    operator.__doc__ = f"``Tensor.{name}``, once a task."
    return operator


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
_OTHERS = (
    *("lshift", "rshift", "lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"),
    *("getitem", "contains", "len", "bool", "int", "float", "index"),
)
for _name in (*(f"{_way}{_name}" for _name in _BINARY for _way in ("", "r", "i")), *_OTHERS):
    setattr(Bundle, f"__{_name}__", _operator(f"__{_name}__"))
