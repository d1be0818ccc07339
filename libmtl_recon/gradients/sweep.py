"""The backward passes of one Gramian, segment by segment, and the pass of the update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from libmtl_recon.gradients import columns
from libmtl_recon.gradients.accumulate import deliver, sum_of
from libmtl_recon.gradients.calls import Call
from libmtl_recon.gradients.columns import real_rows
from libmtl_recon.gradients.combine import combine, wants_float64
from libmtl_recon.gradients.doubt import is_doubtful
from libmtl_recon.gradients.exchange import add_up_gramians, column_blocks, hand_over
from libmtl_recon.gradients.gramian import exact_device, gramian, quick_gramian
from libmtl_recon.gradients.plan import Plan, Segment
from libmtl_recon.gradients.products import (
    Deltas,
    bias_gramian,
    weight_gramian,
)
from libmtl_recon.gradients.ranks import Ranks
from libmtl_recon.gradients.rows import Root, TaskRows

# The least error that is assumed for a Gramian of float32 gradients.
_LEAST = 1e-7


class Sweep:
    """The backward passes for T losses.

    Args:
        plan: The plan of the passes.
        losses: T scalars; None for a loss that is absent.
        rows: The memory for rows, which is kept from step to step.
        exact: Compute products in float64 from the start.
        ranks: The ranks over which gradients are averaged; None: this process alone.
        retain_graph: Keep the graph where all rows are stored, so that the update needs no pass.

    Attributes:
        exact: Whether products were computed in float64.
        losses: The losses.
    """

    def __init__(
        self,
        plan: Plan,
        losses: Sequence[Tensor | None],
        rows: TaskRows,
        *,
        exact: bool = False,
        ranks: Ranks | None = None,
        retain_graph: bool = True,
    ) -> None:
        self._plan, self.losses, self._rows = plan, list(losses), rows
        self._retain_graph = retain_graph
        self._ranks = ranks
        self._shared = [leaf for _, leaf in plan.shared]
        self.exact = exact or all(leaf.dtype == torch.float64 for leaf in self._shared)
        self._names = {id(leaf): name for name, leaf in plan.shared}
        # Each loss's gradient at the start of the current segment.
        self._at_start: list[Tensor | None] = []
        # Each loss's gradient at the start of the second segment, which is kept for the update.
        self._behind_heads: list[Tensor | None] = []
        self._specific: list[tuple[int, Tensor, Tensor]] = []
        self._matrix: Tensor | None = None
        self._total: Tensor | None = None
        self._deltas: dict[int, list[Deltas]] = {}
        self._open: dict[int, int] = {}
        self._complete: list[list[Deltas]] = []
        self._found: dict[str, Tensor] = {}
        self._errors = torch.zeros(len(self.losses), dtype=torch.float64)

    def run(self) -> Tensor | None:
        """Compute the Gramian ``[T, T]``, float64; None if no loss reaches a shared parameter."""
        if not self._shared:
            self._pass_segments()  # for the other ranks
            return None
        if self._plan.stored:
            rows = self._store(self._plan.specific, retain_graph=self._retain_graph)
            self._total = quick_gramian(rows) if self._ranks is None else self._over_ranks(rows)
        else:
            self._total = self._by_segments()
            # On a device without float64 the products cannot be recomputed.
            has_float64 = self._shared[0].device.type != "mps"
            if not self.exact and has_float64 and self._is_doubtful(self._total):
                self.exact, self._specific = True, []
                self._total = self._by_segments()
        return self._total

    def _is_doubtful(self, total: Tensor) -> bool:
        squares = total.diagonal().cpu()
        # The layers computed by rows have at least the error of float32 gradients.
        errors = (self._errors / squares).nan_to_num(0.0).clamp_min(_LEAST)
        return is_doubtful(total.cpu(), errors)

    def _by_segments(self) -> Tensor:
        self._pass_segments()
        return self._sum_of_layers()

    def _over_ranks(self, rows: Tensor) -> Tensor:
        self._multiply(self._shared, rows)
        return self._sum_of_layers()

    def _sum_of_layers(self) -> Tensor:
        if self._ranks is not None:
            with self._ranks.sending("gramians"):
                add_up_gramians(self._found, self._errors, self._ranks)
        return torch.stack(list(self._found.values())).sum(dim=0)

    def _pass_segments(self) -> None:
        self._errors.zero_()
        self._at_start = [None] * len(self.losses)
        self._found, self._deltas = {}, {}
        self._open = {weight: len(calls) for weight, calls in self._plan.calls.items()}
        for segment in self._plan.segments:
            self._differentiate(segment)

    def layers(self) -> Tensor:
        """Return the layers' Gramians ``[L, T, T]``, in the plan's order, after :meth:`run`."""
        if self._matrix is not None and not self._found:
            self._multiply(self._shared, self._matrix)
        order = dict.fromkeys(name for name, _ in self._plan.shared)
        if not order:
            return torch.zeros(0, len(self.losses), len(self.losses), dtype=torch.float64)
        return torch.stack([self._found[name] for name in order])

    def update(self, weights: Tensor, specific: Tensor | None) -> None:
        """Add the weighted gradients to ``.grad``; see :meth:`Record.backward`."""
        leaves, gradients = self._specific_sums(specific)
        if not self._shared:
            deliver(leaves, gradients)
            return
        wide = weights.detach().double().cpu()
        total = None if self._total is None else self._total.cpu()
        if self._matrix is None and total is not None and wants_float64(wide, total):
            # One backward pass of their weighted sum would lose too many digits.
            self._store([], retain_graph=False)
        if self._matrix is None:
            self._back_propagate(wide)
        else:
            found = self._rows.gradients(combine(wide, self._matrix, total), self._shared)
            leaves, gradients = leaves + found[0], gradients + found[1]
        deliver(leaves, gradients)

    def _specific_sums(self, factors: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return the leaves that are not shared, and the sums of their weighted gradients."""
        found: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for task, leaf, gradient in self._specific:
            factor = 1.0 if factors is None else float(factors[task])
            own = gradient if factor == 1.0 else gradient * factor
            found.setdefault(id(leaf), (leaf, []))[1].append(own)
        with torch.no_grad():
            return [leaf for leaf, _ in found.values()], [sum_of(own) for _, own in found.values()]

    def _store(self, specific: Sequence[tuple[Tensor, list[int]]], *, retain_graph: bool) -> Tensor:
        """Compute all rows ``[T, d]``; the gradients of these other leaves are kept as well."""
        others = [leaf for leaf, _ in specific]
        roots: list[Root] = [
            ([] if loss is None or not loss.requires_grad else [loss], None) for loss in self.losses
        ]

        def take(task: int, place: int, gradient: Tensor) -> None:
            self._specific.append((task, others[place], gradient))

        self._matrix = self._rows.fill_apart(
            roots, self._shared, others, take, retain_graph=retain_graph
        )
        return self._matrix

    def _differentiate(self, segment: Segment) -> None:
        calls, parameters = segment.calls, segment.parameters
        for call in calls:
            call.check_unchanged()
        edges = [GradientEdge(call.node, 0) for call in calls]
        end = [] if segment.end is None else [segment.end]
        rows = _zeros(parameters, len(self.losses))
        places = [columns.parts_of(row, parameters) for row in rows]
        gradients: list[list[tuple[int, Tensor]]] = [[] for _ in calls]
        at_end: list[Tensor | None] = [None] * len(self.losses)
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
                    # A copy: autograd may return one tensor for two leaves.
                    self._specific.append((task, leaf, gradient.clone()))
        self._at_start = at_end
        if segment.start is None and end and not calls and not parameters:
            self._behind_heads = at_end
        self._multiply(parameters, rows)
        for call, of_call in zip(calls, gradients, strict=True):
            self._take(call, of_call)
        self._multiply_complete()

    def _pass(self, segment: Segment, task: int, inputs: list[Any]) -> list[Tensor | None]:
        """Return one task's gradients through a segment, None for inputs that it does not reach."""
        loss, factor = self.losses[task], self._at_start[task]
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
        """Add the rows' Gramians to their layers'; adjacent parameters of a layer together."""
        if self._ranks is not None:
            self._multiply_columns(parameters, rows, self._ranks)
            return
        start = 0
        for index, parameter in enumerate(parameters):
            name = self._names[id(parameter)]
            last = index + 1 == len(parameters)
            if last or self._names[id(parameters[index + 1])] != name:
                stop = sum(columns.widths(parameters[: index + 1]))
                self._add(name, gramian(rows[:, start:stop]))
                start = stop

    def _multiply_columns(self, parameters: Sequence[Tensor], rows: Tensor, ranks: Ranks) -> None:
        """Add the Gramians of the columns whose sums this rank has to those of their layers."""
        ends, stop = [], 0
        for parameter in parameters:
            stop += columns.width(parameter)
            ends.append((stop, self._names[id(parameter)]))
            self._add(ends[-1][1], _nothing(len(rows), exact_device(rows.device)))
        begin = 0
        for block in column_blocks(real_rows(rows)):
            with ranks.sending("rows"):
                sums, own = ranks.own_columns(block)
            first = begin + own.start
            start = 0
            for stop, name in ends:
                low, high = max(start, first), min(stop, first + sums.shape[1])
                if low < high:
                    self._add(name, gramian(sums[:, low - first : high - first]))
                start = stop
            begin += block.shape[1]

    def _take(self, call: Call, gradients: list[tuple[int, Tensor]]) -> None:
        """Store the gradients of a call's output."""
        weight = call.operation.weight
        waiting = self._deltas.setdefault(id(weight), [])
        if gradients:
            tasks, found = zip(*gradients, strict=True)
            waiting.append(Deltas(call, tasks, found, exact=self.exact))
        self._open[id(weight)] -= 1
        if self._open[id(weight)]:
            return
        del self._deltas[id(weight)]
        if not waiting:
            return
        if self._ranks is None:
            self._multiply_deltas(waiting)
        else:
            self._complete.append(waiting)

    def _multiply_deltas(self, waiting: Sequence[Deltas]) -> None:
        found = weight_gramian(waiting, len(self.losses))
        self._add(self._names[id(waiting[0].call.operation.weight)], found.gramian)
        self._errors += found.errors.cpu()
        self._take_biases(waiting)

    def _multiply_complete(self) -> None:
        """Multiply for the layers of which all calls have been seen, if this rank does so."""
        complete, self._complete = self._complete, []
        if self._ranks is None or not complete:
            return
        with self._ranks.sending("products"):
            together = hand_over(complete, self._ranks, exact=self.exact)
        for own, of_all in zip(complete, together, strict=True):
            device = exact_device(own[0].tensors()[1].device)
            for one in own:
                for parameter in one.call.operation.parameters:
                    if parameter.requires_grad:
                        self._add(self._names[id(parameter)], _nothing(len(self.losses), device))
            if of_all is not None:
                self._multiply_deltas(of_all)

    def _take_biases(self, waiting: Sequence[Deltas]) -> None:
        # Modules that share one weight may each have their own bias.
        biases: dict[int, list[Deltas]] = {}
        for one in waiting:
            bias = one.call.operation.bias
            if bias is not None and bias.requires_grad:
                biases.setdefault(id(bias), []).append(one)
        for identity, own in biases.items():
            self._add(self._names[identity], bias_gramian(own, len(self.losses)))

    def _add(self, name: str, found: Tensor) -> None:
        self._found[name] = self._found[name] + found if name in self._found else found

    def _back_propagate(self, weights: Tensor) -> None:
        factors = weights.tolist()
        first = self._plan.segments[0]
        if self._behind_heads and first.end is not None:
            total: Tensor | None = None
            for factor, gradient in zip(factors, self._behind_heads, strict=True):
                if gradient is not None:
                    part = gradient * factor
                    total = part if total is None else total.add_(part)
            if total is not None:
                torch.autograd.backward([first.end], [total], inputs=self._shared)
            return
        there = [
            (loss, torch.full_like(loss, factor))
            for loss, factor in zip(self.losses, factors, strict=True)
            if loss is not None and loss.requires_grad
        ]
        roots, multiples = zip(*there, strict=True)
        torch.autograd.backward(roots, multiples, inputs=self._shared)


def _nothing(tasks: int, device: torch.device) -> Tensor:
    return torch.zeros(tasks, tasks, dtype=torch.float64, device=device)


def _zeros(parameters: Sequence[Tensor], tasks: int) -> Tensor:
    if not parameters:
        return torch.zeros(tasks, 0)
    return torch.zeros(
        tasks,
        sum(columns.widths(parameters)),
        dtype=columns.row_dtype(parameters),
        device=parameters[0].device,
    )
