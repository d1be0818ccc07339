"""Accumulation of gradients in ``.grad``, as in torch's own backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def add_gradient(parameter: Tensor, gradient: Tensor) -> None:
    """Add a gradient to a parameter's ``.grad`` in place.

    Args:
        parameter: A leaf.
        gradient: Becomes its ``.grad`` if it has none.
    """
    old = parameter.grad
    parameter.grad = gradient if old is None else _added(old, gradient)


def deliver(leaves: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    """Add gradients to the leaves' ``.grad``, as at the end of one backward pass.

    Accumulation hooks, such as those that step an optimizer, run once and see the sum. Hooks on the
    gradients themselves do not run, since they have seen those of the tasks.

    Args:
        leaves: Different leaves.
        gradients: One gradient per leaf.
    """
    if not leaves:
        return
    hooked = [
        (leaf._backward_hooks, dict(leaf._backward_hooks))
        for leaf in leaves
        if leaf._backward_hooks
    ]
    for hooks, _ in hooked:
        hooks.clear()
    try:
        torch.autograd.backward(leaves, gradients)
    finally:
        for hooks, before in hooked:
            hooks.update(before)


def sum_of(gradients: Iterable[Tensor | None]) -> Tensor:
    """Return the sum of the gradients that are not None, of which there is at least one."""
    there = [gradient for gradient in gradients if gradient is not None]
    if len(there) == 1:
        return there[0]
    # Not in place at first: autograd may return one tensor for two leaves.
    total = _plus(there[0], there[1])
    for gradient in there[2:]:
        total = _plus(total, gradient) if total.is_sparse else total.add_(gradient)
    return total


class Aside:
    """Storage for the earlier gradients of parameters while those of a step are computed."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def take(self, parameters: Iterable[Tensor]) -> None:
        """Set the ``.grad`` of these parameters aside; they have none afterwards."""
        for parameter in parameters:
            gradient = parameter.grad
            if gradient is None:
                continue
            _, old = self._kept.get(id(parameter), (None, None))
            whole = gradient if old is None else _added(old, gradient)
            self._kept[id(parameter)], parameter.grad = (parameter, whole), None

    def put_back(self) -> None:
        """Discard the gradients of the step, and restore those from before."""
        for parameter, old in self._take_all():
            parameter.grad = old

    def add_up(self) -> None:
        """Add the gradients of the step to those from before.

        A parameter that the step did not reach keeps its earlier gradient. If that is all zeros,
        as after ``zero_grad(set_to_none=False)``, its ``.grad`` becomes None, so that weight decay
        and momentum do not change the parameter.
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
        """Drop the stored gradients."""
        self._kept = {}

    def _take_all(self) -> list[tuple[Tensor, Tensor]]:
        kept, self._kept = list(self._kept.values()), {}
        return kept


@contextmanager
def added_up(parameters: Iterable[Tensor], zeroed: Iterable[Tensor] = ()) -> Iterator[None]:
    """Run a step without earlier gradients, then add its gradients to those from before.

    Scaling, clipping or overwriting the gradients of the step does not change those from before.
    After an error, parameters that had a gradient have the one from before.

    Args:
        parameters: Parameters that have no ``.grad`` when the step begins.
        zeroed: Parameters whose ``.grad``, if they had one, is zeros instead.
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
        return gradient + old  # a dense tensor cannot be added to a sparse one in place
    with torch.no_grad():
        return old.add_(gradient)


def _plus(first: Tensor, second: Tensor) -> Tensor:
    # A dense tensor cannot be added to a sparse one in place.
    return second + first if first.is_sparse and not second.is_sparse else first + second


def _are_nonzero(parameters: list[Tensor]) -> list[bool]:
    """Return whether each ``.grad`` has a nonzero entry; synchronise with the devices once."""
    if not parameters:
        return []
    found = []
    for parameter in parameters:
        gradient = parameter.grad
        assert gradient is not None
        found.append((gradient._values() if gradient.is_sparse else gradient).any())
    return torch.stack([one.to(found[0].device) for one in found]).tolist()
