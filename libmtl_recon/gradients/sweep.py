"""The backward passes of one Gramian, segment by segment, and the one of the update after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from libmtl_recon.errors import UsageError
from libmtl_recon.gradients import columns
from libmtl_recon.gradients.accumulate import add_gradient
from libmtl_recon.gradients.calls import Call
from libmtl_recon.gradients.combine import combine
from libmtl_recon.gradients.gramian import gramian
from libmtl_recon.gradients.plan import Plan, Segment
from libmtl_recon.gradients.products import Deltas, bias_gramian, weight_gramian


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

    def run(self) -> dict[str, Tensor]:
        """The Gramians ``[T, T]`` of the layers, by their names, in the order of the plan."""
        for segment in self._plan.segments:
            self._differentiate(segment)
        order = dict.fromkeys(name for name, _ in self._plan.shared)
        found = {name: self._found[name] for name in order if name in self._found}
        if found:
            self._total = torch.stack(list(found.values())).sum(dim=0)
        return found

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

    def _differentiate(self, segment: Segment) -> None:
        calls, parameters = segment.calls, segment.parameters
        for call in calls:
            call.check_unchanged()
        edges = [GradientEdge(call.node, 0) for call in calls]
        end = [] if segment.end is None else [segment.end]
        rows = _zeros(parameters, len(self._losses))
        places = [
            [
                columns.part_of(part, parameter)
                for parameter, part in zip(
                    parameters, row.split(columns.widths(parameters)), strict=True
                )
            ]
            for row in rows
        ]
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
        if self._plan.stored:
            self._stored = parameters, rows
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
        weight = call.module._parameters["weight"]
        waiting = self._deltas.setdefault(id(weight), [])
        if gradients:
            tasks, found = zip(*gradients, strict=True)
            waiting.append(Deltas(call, tasks, found))
        self._open[id(weight)] -= 1
        if self._open[id(weight)]:
            return
        del self._deltas[id(weight)]
        if waiting:
            name = self._names[id(weight)]
            self._add(name, weight_gramian(waiting, len(self._losses)))
            bias = call.module._parameters.get("bias")
            if bias is not None and bias.requires_grad:
                self._add(name, bias_gramian(waiting, len(self._losses)))

    def _add(self, name: str, found: Tensor) -> None:
        self._found[name] = self._found[name] + found if name in self._found else found

    def _hand_out(self, weights: Tensor) -> None:
        assert self._stored is not None
        parameters, rows = self._stored
        total = None if self._total is None else self._total.cpu()
        vector = combine(weights.detach().double().cpu(), rows, total)
        for parameter, part in zip(parameters, columns.split(vector, parameters), strict=True):
            shaped = columns.part_of(part, parameter)
            add_gradient(parameter, columns.gradient_of(shaped, parameter))

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
