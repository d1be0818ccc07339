"""Gradients add up in ``.grad``, as torch's own backward pass adds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Add a gradient to a parameter's ``.grad``, which stays the tensor that it is.

    Args:
        parameter: A leaf.
        gradient: Becomes its ``.grad`` if it has none.
    """
    old = parameter.grad
    parameter.grad = gradient if old is None else _added(old, gradient)


class Aside:
    """The gradients that parameters had, while those of a step are made."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def take(self, parameters: Iterable[Tensor]) -> None:
        """Put the ``.grad`` of these parameters aside; they have none afterwards."""
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            _, old = self._kept.get(id(parameter), (None, None))
            whole = gradient if old is None else _added(old, gradient)
            self._kept[id(parameter)], parameter.grad = (parameter, whole), None

    def put_back(self) -> None:
        """Take the gradients of the step back: each parameter has what it had before."""
        for parameter, old in self._take_all():
            parameter.grad = old

    def add_up(self) -> None:
        """Add the gradients of the step to those from before.

        A parameter that the step did not reach keeps what it had. If that is zeros, which
        ``zero_grad(set_to_none=False)`` leaves, it has none, so that weight decay and momentum do
        not move it.
        """
        unreached = []
        for parameter, old in self._take_all():
            new, parameter.grad = parameter.grad, old
            if new is None:
                unreached.append(parameter)
            else:
                add_gradient(parameter, new)
        for parameter, nonzero in zip(unreached, _are_nonzero(unreached), strict=True):
            if not nonzero:
                parameter.grad = None

    def drop(self) -> None:
        """Forget them."""
        self._kept = {}

    def _take_all(self) -> list[tuple[Tensor, Tensor]]:
        kept, self._kept = list(self._kept.values()), {}
        return kept


@contextmanager
def added_up(parameters: Iterable[Tensor], zeroed: Iterable[Tensor] = ()) -> Iterator[None]:
    """A step that finds no gradients, and whose gradients are then added to those from before.

    Whatever is done to the gradients of the step (scaled, clipped, written over) is done to them
    alone. After an error those that had a gradient have the one from before.

    Args:
        parameters: Have no ``.grad`` when the step begins.
        zeroed: Have one of zeros instead, if they had one.
    """
    before, zeroed = Aside(), list(zeroed)
    had = [parameter for parameter in zeroed if parameter.grad is not None]
    before.take([*parameters, *had])
    for parameter in had:
        parameter.grad = torch.zeros_like(parameter)
    try:
        yield
    except BaseException:
        before.put_back()
        raise
    before.add_up()


def _added(old: Tensor, gradient: Tensor) -> Tensor:
    if old.is_sparse and not gradient.is_sparse:
        return gradient + old  # a sparse tensor cannot take a dense one in
    with torch.no_grad():
        return old.add_(gradient)


def _are_nonzero(parameters: list[Tensor]) -> list[bool]:
    """Whether the ``.grad`` of each has an entry that is not zero; devices are waited for once."""
    if not parameters:
        return []
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        assert gradient is not None
        found.append((gradient._values() if gradient.is_sparse else gradient).any())
    return torch.stack([one.to(found[0].device) for one in found]).tolist()
