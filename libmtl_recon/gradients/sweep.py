"""The backward passes of one Gramian, segment by segment, and the one of the update after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import columns
from libmtl_recon.gradients.accumulate import Aside, add_gradient
from libmtl_recon.gradients.calls import Call
from libmtl_recon.gradients.combine import combine
from libmtl_recon.gradients.gramian import gramian, quick_gramian
from libmtl_recon.gradients.per_task import scatter_gradient
from libmtl_recon.gradients.plan import Plan, Segment
from libmtl_recon.gradients.products import Deltas, bias_gramian, weight_gramian
from libmtl_recon.gradients.rows import caught


class Sweep:
    """The passes for T losses.

    Args:
        plan: Which they are.
        losses: T scalars; None for one that there is not.
    """

    def __init__(self, plan: Plan, losses: Sequence[Tensor | None]) -> None:
        self._plan, self._losses = plan, list(losses)
        self._names = {id(leaf): name for name, leaf in plan.shared}
        # Each loss's gradient where the segment begins that is being computed.
        self._at_start: list[Tensor | None] = [None] * len(losses)
        # The same where the second segment begins, which is kept for the update.
        self._behind_heads: list[Tensor | None] = []
        self._specific: list[tuple[int, Tensor, Tensor]] = []
        self._stored: tuple[list[Tensor], Tensor] | None = None
        self._total: Tensor | None = None
        self._deltas: dict[int, list[Deltas]] = {}
        self._open = {weight: len(calls) for weight, calls in plan.calls.items()}
        self._found: dict[str, Tensor] = {}

    def run(self) -> Tensor | None:
        """The Gramian ``[T, T]``, float64; None if no loss reaches a shared parameter."""
        if not self._plan.shared:
            return None
        if self._plan.stored:
            self._store()
        else:
            for segment in self._plan.segments:
                self._differentiate(segment)
            self._total = torch.stack(list(self._found.values())).sum(dim=0)
        return self._total

    def layers(self) -> Tensor:
        """Those of the L layers, ``[L, T, T]``, in the order of the plan; after :meth:`run`."""
        if self._stored is not None and not self._found:
            self._multiply(*self._stored)
        order = dict.fromkeys(name for name, _ in self._plan.shared)
        if not order:
            return torch.zeros(0, len(self._losses), len(self._losses), dtype=torch.float64)
        return torch.stack([self._found[name] for name in order])

    def update(self, weights: Tensor, specific: Tensor | None) -> None:
        """Add the weighted gradients to ``.grad``; see :meth:`Record.backward`."""
        tasks = len(self._losses)
        for name, given in (("weights", weights), ("specific", specific)):
            if given is not None and given.shape != (tasks,):
                raise UsageError(
                    name, f"must have the shape [{tasks}]", list(given.shape), "One for each task."
                )
        for task, leaf, gradient in self._specific:
            factor = 1.0 if specific is None else float(specific[task])
            add_gradient(leaf, gradient if factor == 1.0 else gradient * factor)
        if self._stored is not None:
            self._hand_out(weights)
        else:
            self._back_propagate(weights)

    def _store(self) -> None:
        """Write all rows, each gradient as soon as a pass makes it, while it is in the cache."""
        shared = [leaf for _, leaf in self._plan.shared]
        specific = [leaf for leaf, _ in self._plan.specific]
        rows = _zeros(shared, len(self._losses))
        before = Aside()
        before.take([*shared, *specific])
        try:
            for task, loss in enumerate(self._losses):
                if loss is not None and loss.requires_grad:
                    self._store_one(task, loss, rows[task], shared, specific)
        finally:
            before.put_back()
        self._stored = shared, rows
        self._total = quick_gramian(rows)

    def _store_one(
        self,
        task: int,
        loss: Tensor,
        row: Tensor,
        shared: Sequence[Tensor],
        specific: Sequence[Tensor],
    ) -> None:
        places = columns.parts_of(row, shared)

        def write(place: int, gradient: Tensor) -> None:
            if place < len(places):
                columns.write(places[place], gradient)
            else:
                self._specific.append((task, specific[place - len(places)], gradient))

        leaves = [*shared, *specific]
        with caught(leaves, write):
            torch.autograd.backward([loss], inputs=leaves, retain_graph=True)

    def _differentiate(self, segment: Segment) -> None:
        calls, parameters = segment.calls, segment.parameters
        for call in calls:
            call.check_unchanged()
        edges = [GradientEdge(call.node, 0) for call in calls]
        end = [] if segment.end is None else [segment.end]
        rows = _zeros(parameters, len(self._losses))
        places = [columns.parts_of(row, parameters) for row in rows]
        gradients: list[list[tuple[int, Tensor]]] = [[] for _ in calls]
        at_end: list[Tensor | None] = [None] * len(self._losses)
        for task in segment.tasks:
            own = [] if segment.start else [p for p, of in self._plan.specific if task in of]
            found = self._pass(segment, task, [*edges, *end, *parameters, *own])
            for of_call in gradients:
                gradient = found.pop(0)
                if gradient is not None:
                    of_call.append((task, gradient))
            if end:
                at_end[task] = found.pop(0)
            for part in places[task]:
                gradient = found.pop(0)
                if gradient is not None:
                    columns.write(part, gradient)
            for leaf, gradient in zip(own, found, strict=True):
                if gradient is not None:
                    # A copy: autograd may hand one tensor out for two leaves.
                    self._specific.append((task, leaf, gradient.clone()))
        self._at_start = at_end
        if segment.start is None and end and not calls and not parameters:
            self._behind_heads = at_end
        self._multiply(parameters, rows)
        for call, of_call in zip(calls, gradients, strict=True):
            self._take(call, of_call)

    def _pass(self, segment: Segment, task: int, inputs: list[Any]) -> list[Tensor | None]:
        """One task's gradients through a segment, None for what it does not reach."""
        loss, factor = self._losses[task], self._at_start[task]
        if segment.start is not None:
            root: Any = None if factor is None else segment.start
        else:
            root = loss if loss is not None and loss.requires_grad else None
        if root is None or not inputs:
            return [None] * len(inputs)
        factors = None if factor is None else [factor]
        found = torch.autograd.grad([root], inputs, factors, retain_graph=True, allow_unused=True)
        return list(found)

    def _multiply(self, parameters: Sequence[Tensor], rows: Tensor) -> None:
        """Add the rows' Gramians to those of their layers, neighbours of one layer at once."""
        start = 0
        for index, parameter in enumerate(parameters):
            name = self._names[id(parameter)]
            last = index + 1 == len(parameters)
            if last or self._names[id(parameters[index + 1])] != name:
                stop = sum(columns.widths(parameters[: index + 1]))
                self._add(name, gramian(rows[:, start:stop]))
                start = stop

    def _take(self, call: Call, gradients: list[tuple[int, Tensor]]) -> None:
        """Take the gradients of a call's output; the products, once all calls of its layer have."""
        weight = call.operation.weight
        waiting = self._deltas.setdefault(id(weight), [])
        if gradients:
            tasks, found = zip(*gradients, strict=True)
            waiting.append(Deltas(call, tasks, found))
        self._open[id(weight)] -= 1
        if self._open[id(weight)]:
            return
        del self._deltas[id(weight)]
        if waiting:
            self._add(self._names[id(weight)], weight_gramian(waiting, len(self._losses)))
            self._take_biases(waiting)

    def _take_biases(self, waiting: Sequence[Deltas]) -> None:
        # Modules with one weight may have a bias each.
        biases: dict[int, list[Deltas]] = {}
        for one in waiting:
            bias = one.call.operation.bias
            if bias is not None and bias.requires_grad:
                biases.setdefault(id(bias), []).append(one)
        for identity, own in biases.items():
            self._add(self._names[identity], bias_gramian(own, len(self._losses)))

    def _add(self, name: str, found: Tensor) -> None:
        self._found[name] = self._found[name] + found if name in self._found else found

    def _hand_out(self, weights: Tensor) -> None:
        assert self._stored is not None
        parameters, rows = self._stored
        total = None if self._total is None else self._total.cpu()
        vector = combine(weights.detach().double().cpu(), rows, total)
        scatter_gradient(vector, parameters)

    def _back_propagate(self, weights: Tensor) -> None:
        shared = [leaf for _, leaf in self._plan.shared]
        if not shared:
            return
        factors = weights.detach().tolist()
        first = self._plan.segments[0]
        if self._behind_heads and first.end is not None:
            total: Tensor | None = None
            for factor, gradient in zip(factors, self._behind_heads, strict=True):
                if gradient is not None:
                    part = gradient * factor
                    total = part if total is None else total.add_(part)
            if total is not None:
                torch.autograd.backward([first.end], [total], inputs=shared)
            return
        there = [
            (loss, torch.full_like(loss, factor))
            for loss, factor in zip(self._losses, factors, strict=True)
            if loss is not None and loss.requires_grad
        ]
        roots, multiples = zip(*there, strict=True)
        torch.autograd.backward(roots, multiples, inputs=shared)


def _zeros(parameters: Sequence[Tensor], tasks: int) -> Tensor:
    if not parameters:
        return torch.zeros(tasks, 0)
    return torch.zeros(
        tasks,
        sum(columns.widths(parameters)),
        dtype=columns.row_dtype(parameters),
        device=parameters[0].device,
    )
