"""State of a model's current training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError, naming
from libmtl_recon.gradients import Record
from libmtl_recon.gradients.accumulate import added_up
from libmtl_recon.gradients.plan import Plan
from libmtl_recon.gradients.rows import Root, TaskRows
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.shared_layers import sharing_root
from libmtl_recon.integrations.libmtl.step.forward_calls import ForwardCalls
from libmtl_recon.integrations.libmtl.step.loss_graph import tops_of, was_filled_with
from libmtl_recon.integrations.libmtl.step.split_losses import (
    SplitLosses,
    derived_roots,
    jacobian_of,
)
from libmtl_recon.integrations.libmtl.step.watcher import Watcher

# Number of steps with products taken in float64 at once after a step that had to repeat them: the
# reason (gradients that are nearly parallel, inputs far from zero) seldom goes away.
_EXACT_STEPS = 50


class Recorded(NamedTuple):
    """Recorded calls of forward passes, and the T losses; None for one that is a constant."""

    record: Record
    losses: list[Tensor | None]


class Step:
    """State of one model's steps.

    Attributes:
        rows: The matrices of per-task gradients.
        calls: The recorded calls of the forward passes.
        way: How Gramians are computed; see :func:`libmtl_recon.gradients.recording`.
        batches: While a weighting's ``backward`` runs: the batches' losses that it was given
            (three for MoDo and SDMGrad, else one); empty if the losses were not recognised.
        asked: Whether the weighting has had its losses differentiated in this step.
    """

    def __init__(self) -> None:
        self.rows = TaskRows()
        self.calls = ForwardCalls()
        self.way = "auto"
        self.batches: list[SplitLosses] = []
        self._adding_up = False
        self._given: Tensor | None = None
        self._vectors: list[tuple[Any, tuple[Tensor, ...]]] = []
        self._scalars: list[Tensor] = []
        self._tasks = 0
        self._absent: set[int] = set()
        self._labelled: dict[int, Tensor] = {}
        self._part: tuple[Any, Tensor] | None = None
        self._watcher: Watcher | None = None
        self._exact_steps = 0
        self._unsure = False
        self._own_rows = False
        self.asked = False

    @property
    def present(self) -> list[int] | None:
        """Return the places of the tasks that have labels in this step; None if all have."""
        if not self._absent:
            return None
        return [index for index in range(self._tasks) if index not in self._absent]

    def note_vector(self, vector: Tensor, scalars: list[Tensor], batches: int) -> None:
        """Remember a vector of losses for the following ``backward``.

        Args:
            vector: ``[T]``, filled with the scalars.
            scalars: The losses of the tasks.
            batches: The number of vectors per step.
        """
        self._vectors = [*self._vectors, (vector.grad_fn, tuple(scalars))][-batches:]

    def note_scalar(self, scalar: Tensor, wanted: int) -> None:
        """Remember one task's loss (``multi_input``); a step consists of ``wanted`` of them."""
        self._scalars = [*self._scalars, scalar][-wanted:]

    def note_tasks(self, losses: Mapping[int, Tensor | None], tasks: int) -> None:
        """Remember which tasks have labels in the following step.

        Args:
            losses: Some tasks' scalar losses by the tasks' places; None for a task without labels.
            tasks: The number of tasks.
        """
        self._tasks = tasks
        for index, loss in losses.items():
            if loss is None:
                self._absent.add(index)
            else:
                self._absent.discard(index)
                self._labelled[index] = loss

    def note_part(self, whole: Tensor, part: Tensor) -> None:
        """Remember that losses ``[T]`` contain those of the present tasks, ``[P]``."""
        self._part = whole.grad_fn, part

    def part_of(self, losses: Tensor) -> Tensor:
        """Return the losses ``[P]`` of the present tasks, with the smallest known graph."""
        present, tops = self.present or [], tops_of(losses)
        if len(tops) == 1 and self._part is not None and tops[0] is self._part[0]:
            return self._part[1]
        scalars = [self._labelled[index] for index in present if index in self._labelled]
        known = len(tops) == 1 and len(scalars) == len(present)
        if not known or not was_filled_with(tops[0], tuple(scalars)):
            return losses[present]
        part = torch.stack([scalar.to(losses.dtype) for scalar in scalars])
        self.note_vector(part, scalars, batches=1)
        return part

    def forget_tasks(self) -> None:
        """Treat all tasks as present again."""
        self._absent, self._labelled, self._part = set(), {}, None

    @contextmanager
    def added_up(self, shared: Sequence[Tensor], zeroed: Sequence[Tensor] = ()) -> Iterator[None]:
        """Hide gradients from a weighting inside the ``with`` block; then add its own to them.

        Gradients that it assigns meanwhile replace any others that it has left in the shared
        parameters, as in LibMTL.

        Args:
            shared: The shared parameters, and all others that it may overwrite.
            zeroed: Those whose gradients it changes without checking whether there are any.
        """
        self.rows.begin()
        self._adding_up = True
        try:
            with added_up(shared, zeroed):
                yield
        finally:
            self._adding_up = False
            self.rows.forget()

    def assign_grad(self, gradient: Tensor, shared: Sequence[Tensor]) -> None:
        """Set the shared parameters' gradient ``[d]``; see :meth:`TaskRows.scatter`."""
        own = gradient.clone() if self.rows.holds(gradient) else gradient
        self.rows.scatter(own, shared, overwrite=self._adding_up)
        if not self._adding_up:
            self.rows.begin()  # nothing else marks the end of a step

    def open(self, losses: Any) -> bool:
        """Recognise the losses that ``backward`` was given; return whether that succeeded."""
        self.rows.begin()
        tops = tops_of(losses) if isinstance(losses, Tensor) else []
        found = [self._behind(top, index, losses.shape[-1]) for index, top in enumerate(tops)]
        scalars = [one for one in found if one is not None]
        if not scalars or len(scalars) != len(found):
            return False
        self.batches = [SplitLosses(one, losses.dtype) for one in scalars]
        self._given = losses
        return True

    @contextmanager
    def own_rows(self) -> Iterator[None]:
        """Compute rows of this rank's part of the batch inside the ``with`` block."""
        self._own_rows = True
        try:
            yield
        finally:
            self._own_rows = False

    def averaged(self, rows: Tensor) -> Tensor:
        """Replace rows by their mean over the ranks, if there are any, and return them.

        Inside of :meth:`own_rows` they are unchanged.
        """
        return rows if self._own_rows else averaged(rows)

    def of_all_ranks(self, rows: Tensor) -> Tensor:
        """Return the mean over the ranks of rows that a weighting has been given."""
        return averaged(rows.clone()) if self._own_rows and ranks() is not None else rows

    def open_any(self, losses: Tensor) -> None:
        """Recognise any losses ``[T]``, each with its own graph."""
        self.rows.begin()
        self.batches, self._given = [SplitLosses(list(losses), losses.dtype)], losses

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Differentiate weighted losses one per task inside the ``with`` block.

        Args:
            watcher: Called with their gradients.
        """
        self._watcher = watcher
        try:
            yield
        finally:
            self._watcher = None

    def recorded(self, model: Any) -> Recorded | None:
        """Return the recorded calls of the forward passes, and the losses that they led to.

        None if nothing was recorded, or if the losses are not known one by one: a weighting was
        not given those that :meth:`hand_over` returns.
        """
        calls = self.calls.together
        handed_over = self._given is None and len(self.batches) == 1
        if calls is None or self.way == "stored" or not handed_over:
            return None
        shared = list(model.get_share_params())
        record = Record(
            sharing_root(model, shared),
            calls,
            shared,
            self.way,
            self.rows,
            exact=self._exact_steps > 0,
            ranks=ranks(),
        )
        scalars = self.batches[0].scalars
        return Recorded(record, [one if one.requires_grad else None for one in scalars])

    def planned(self, model: Any) -> tuple[Recorded, Plan] | None:
        """Return the same and the plan for the Gramian; None also where rows are to be stored.

        Raises:
            ReconError: With ``ghost``, where it is not possible.
        """
        found = self.recorded(model)
        if found is None:
            return None
        try:
            with naming(way="--recon_gradients"):
                plan = found.record.plan(found.losses)
        except ReconError:
            if self.way == "ghost":
                raise
            plan = None
        # Several ranks compute the Gramian of rows, too, without any of them having all rows.
        if plan is not None and (not plan.stored or (ranks() is not None and not plan.unsure)):
            return found, plan
        # Counting conflicts in addition to a pass of the losses' sum needs it in each step.
        self._unsure = plan is not None and bool(plan.unsure)
        # Of several ranks only some may have seen parts of this length.
        if ranks() is None and self.present is None and not (self._unsure and self._watcher):
            self.calls.store_from_now_on()
        return None

    def jacobian(self, losses: Tensor, *, accumulate: bool) -> Tensor | None:
        """Return the Jacobian ``[T, T]`` of losses ``[T]`` by the batch's; None if identical."""
        if losses is self.batches[0].vector:
            return None
        return jacobian_of(losses, self.batches, accumulate=accumulate)

    def note_gramian(self, record: Record) -> None:
        """Record that the step's Gramian was computed, and pass it to the watcher, if any."""
        if self._exact_steps:
            self._exact_steps -= 1
        elif record.exact:
            self._exact_steps = _EXACT_STEPS
        if self._watcher is not None and self._watcher.waiting:
            self._watcher.take_gramians(record.layers, record.layer_gramians)

    def back_propagate(self, model: Any) -> None:
        """Continue into the tasks' graphs with the gradients of the vectors, if any."""
        for batch in self.batches:
            gradient = batch.take_gradient()
            if gradient is None:
                continue
            self.asked = True
            if self._watcher is None or not self._watcher.waiting:
                batch.back_propagate(gradient)
                continue
            planned = self.planned(model) if self.calls.watched else None
            if planned is None:
                shared = list(model.get_share_params())
                self._one_by_one(batch, gradient, shared, self._watcher)
                self._unsure = False
                continue
            found, plan = planned
            found.record.gramian_as_it_is(plan, found.losses)
            self.note_gramian(found.record)
            found.record.backward_as_it_is(gradient, gradient)

    def _one_by_one(
        self,
        batch: SplitLosses,
        gradient: Tensor,
        shared: Sequence[Tensor],
        watcher: Watcher,
    ) -> None:
        # A factor that is not positive erases a task's direction, or reverses it. A nonlinear
        # function makes another update of the losses' sum than of each loss.
        if self._unsure or not bool((gradient > 0).all()):
            watcher.take_rows(
                averaged(self.rows.fill(batch.roots(), shared, accumulate=False, retain_graph=True))
            )
            batch.back_propagate(gradient)
            return
        rows = averaged(self.rows.fill(batch.roots(gradient), shared, accumulate=True))
        watcher.take_rows(rows)
        self.rows.scatter(rows.sum(dim=0), shared)

    def close(self) -> None:
        """Forget the step, and its graphs."""
        self.asked = False
        self.batches, self._given = [], None
        self._vectors, self._scalars = [], []
        self.calls.forget()

    def scalars_of(self, losses: Tensor) -> list[Tensor]:
        """Return one scalar per task for losses ``[T]``, with the smallest known graph."""
        for batch in self.batches:
            if losses is batch.vector:
                return list(batch.scalars)
        tops = tops_of(losses)
        found = self._behind(tops[0], 0, len(losses)) if len(tops) == 1 else None
        return list(losses) if found is None else list(found)

    def roots(self, losses: Any, *, accumulate: bool) -> list[Root]:
        """Return what to differentiate for each task of the losses that a weighting passes."""
        self.asked = True
        for batch in self.batches:
            if losses is batch.vector:
                return batch.roots()
        if losses is self._given and len(self.batches) == 1:
            return self.batches[0].roots()
        if self.batches and self._given is None:
            return derived_roots(losses, self.batches, accumulate=accumulate)
        return [([loss] if loss.requires_grad else [], None) for loss in losses]

    def hand_over(self) -> Tensor | list[Tensor]:
        """Return the replacement of LibMTL's losses: the vector, or three of them."""
        self._given = None
        vectors = [batch.vector for batch in self.batches]
        return vectors[0] if len(vectors) == 1 else vectors

    def _behind(self, top: Any, index: int, tasks: int) -> tuple[Tensor, ...] | None:
        for grad_fn, scalars in self._vectors:
            if top is grad_fn:
                return scalars
        scalars = tuple(self._scalars[index * tasks : (index + 1) * tasks])
        return scalars if len(scalars) == tasks and was_filled_with(top, scalars) else None


_steps: WeakKeyDictionary[Any, Step] = WeakKeyDictionary()


def step_of(model: Any) -> Step:
    """Return the state of the model's step."""
    step = _steps.get(model)
    if step is None:
        step = _steps[model] = Step()
    return step


def task_rows(model: Any, losses: Any, *, accumulate: bool = True) -> Tensor:
    """Compute the gradient of each task's loss with respect to the shared parameters.

    Args:
        model: A model with ``get_share_params``.
        losses: ``[T]``, as the model's weighting was given them, or derived from these.
        accumulate: Add the gradients of all other parameters (decoders, task-specific layers) to
            their ``.grad``; the graph is freed. Otherwise it is kept.

    Returns:
        ``[T, d]``, see :meth:`TaskRows.fill`; overwritten in the next step.

    Raises:
        ReconError: The losses have no graph.
    """
    step, shared = step_of(model), list(model.get_share_params())
    roots = task_roots(model, losses, accumulate=accumulate)
    rows = step.rows.fill(roots, shared, accumulate=accumulate, retain_graph=not accumulate)
    return step.averaged(rows)


def averaged(rows: Tensor) -> Tensor:
    """Replace rows by their mean over the ranks, if there are any, and return them."""
    group = ranks()
    if group is not None:
        with group.sending("rows"):
            group.average([rows])
    return rows


def task_roots(model: Any, losses: Any, *, accumulate: bool) -> list[Root]:
    """Return what to differentiate for each task, with the smallest known graph.

    Args:
        model: LibMTL's model.
        losses: As for :func:`task_rows`.
        accumulate: As there.

    Raises:
        ReconError: The losses have no graph.
    """
    if isinstance(losses, Tensor) and not losses.requires_grad:
        raise ReconError(
            "None of the losses depends on a trainable parameter, so there is nothing to "
            "differentiate. Compute them with gradients enabled, with a network that is not frozen."
        )
    return step_of(model).roots(losses, accumulate=accumulate)


def assign_grad(model: Any, gradient: Tensor) -> None:
    """Set the shared parameters' gradient ``[d]``; none for those that no task reached.

    It is added to their gradients from before the model's ``backward``, like that of any backward
    pass.
    """
    step_of(model).assign_grad(gradient, list(model.get_share_params()))


def task_scalars(model: Any, losses: Tensor) -> list[Tensor]:
    """Return one scalar loss per task, with the graph of its own task where that is known.

    Args:
        model: LibMTL's model.
        losses: ``[T]``, as passed to its ``backward``.
    """
    return step_of(model).scalars_of(losses)


def present_tasks(model: Any) -> list[int]:
    """Return the indices, among all tasks of the model, of the tasks with labels in this step.

    While a weighting's ``backward`` runs, its losses, ``task_num`` and ``task_name`` are those of
    these tasks only. The indices are the places of these tasks in a state per task.
    """
    present = step_of(model).present
    return list(range(model.task_num)) if present is None else list(present)
