"""Scoring: count conflicts on LibMTL's model while any weighting trains it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.conflicts.counter import ConflictCounter
from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.schedule import Schedule, Stopping, described
from libmtl_recon.errors import ReconError, naming
from libmtl_recon.integrations.libmtl.data_parallel.agreement import of_first
from libmtl_recon.integrations.libmtl.hooks import TrainerHook
from libmtl_recon.integrations.libmtl.own_passes import rows_of_own_passes
from libmtl_recon.integrations.libmtl.provenance import provenance_of, weighting_name
from libmtl_recon.integrations.libmtl.replacing import replace, restore
from libmtl_recon.integrations.libmtl.shared_layers import layers_at, parameters_of, shared_layers
from libmtl_recon.integrations.libmtl.step import SEVERAL_BATCHES, hands_over, step_of
from libmtl_recon.integrations.libmtl.step.step import averaged, present_tasks

# Scored steps between two checks, which wait for the device, that all gradients were finite.
_CHECK_EVERY = 50


class ScoringHook(TrainerHook):
    """Hook that counts the conflicts in every shared layer of one Trainer, over all its trainings.

    If the weighting computes the tasks' gradients itself, these are read where it computes them
    (``_compute_grad``), which does not change the training. For a weighting of losses, T backward
    passes, one per task, replace the pass of the sum of the losses; the update is the same up to
    rounding. If this is not possible (LibMTL's own backward code, ``rep_grad``, a script's own
    weighting), T additional passes precede it.

    Args:
        schedule: Which steps to score, and when to end the run by ``StopRun``; a number ends it
            after that many scored steps, None scores all.
        dataset: The data set's name for the provenance; by default the script's ``--dataset``,
            or else the script's name.
        on_step: Called with the number of scored steps after each.
        on_built: Called with the network's layers before the first step; may raise ``StopRun``.
        trainer: The number of the Trainer to score, from 1, in the order in which the script
            builds them. A later Trainer of the same model is scored with it.
        on_other: Called once if another model is trained, which is not scored.
    """

    on_every_rank = True  # counts cover all ranks, and each stops at the same step

    def __init__(
        self,
        schedule: Schedule | int | None = None,
        *,
        dataset: str | None = None,
        on_step: Callable[[int], None] = lambda _: None,
        on_built: Callable[[tuple[Layer, ...]], None] = lambda _: None,
        trainer: int = 1,
        on_other: Callable[[], None] = lambda: None,
    ) -> None:
        self.schedule = schedule if isinstance(schedule, Schedule) else Schedule(schedule)
        until = self.schedule.until
        self._stopping = None if until is None else Stopping(until)
        self.trained_steps = 0  # scored or not
        self.missed = 0
        self.failed = False
        self.trainers = 0  # built so far
        self.calls = 0  # of ``train``, by any Trainer
        self._number = trainer
        self._dataset = dataset
        self._on_step = on_step
        self._on_built = on_built
        self._on_other = on_other
        self._told_of_other = False
        self._over = False
        self._counter: ConflictCounter | None = None
        self._trainer: Any = None
        self._model: Any = None
        self._provenance: dict[str, Any] = {}

    @property
    def attached(self) -> bool:
        """Return whether the Trainer to score was built."""
        return self._counter is not None

    def profile(self) -> ConflictProfile | None:
        """Return the counts so far; None before the first step.

        Raises:
            ReconError: A gradient was not finite.
        """
        if self._counter is None or self._counter.steps == 0:
            return None
        self._refuse_non_finite()
        more: dict[str, Any] = {"missed_steps": self.missed} if self.missed else {}
        profile = self._counter.profile({})
        judged = self.schedule.judged
        if judged is not None:
            more["stability"] = described(judged, judged.look(profile))
        return dataclasses.replace(profile, provenance={**self._provenance, **more})

    def built(self, trainer: Any) -> None:
        """Begin to count on the model of the Trainer to score.

        Raises:
            ReconError: The weighting or the network cannot be scored.
        """
        self.trainers += 1
        if self.trainers != self._number:
            return
        model = trainer.model
        weighting = weighting_name(model)
        if weighting in SEVERAL_BATCHES:
            raise ReconError(
                f"--weighting {weighting} draws three batches per step, for which a conflict "
                "between two tasks is not defined. Score with another weighting, such as EW: the "
                "layers belong to the network, not to the weighting."
            )
        layers, self._columns = shared_layers(model)
        if self.schedule.judged is not None:
            with naming(K="--k"):
                self.schedule.judged.check_layers(len(layers))
        of_first(lambda: self._on_built(layers))
        self._counter = self._new_counter(layers, trainer)
        self._provenance = provenance_of(trainer, weighting, self._dataset)
        if self._number > 1:
            self._provenance["trainer"] = self._number
        self._trainer, self._model = trainer, model
        self._shared = parameters_of(model)
        device = self._counter.device
        self._finite = torch.ones(len(model.task_name), dtype=torch.bool, device=device)
        self._watching = False
        self._seen = False
        self._present = list(range(len(model.task_name)))
        # Already here, since a script's own Trainer may train without LibMTL's ``train``.
        self._wrap()

    def training(self, trainer: Any) -> None:
        """Resume counting for a further call of ``train``.

        Raises:
            ReconError: Other layers are trained now than when scoring began.
        """
        self.calls += 1
        if trainer is not self._trainer and trainer.model is not self._model:
            if not self._told_of_other:
                self._told_of_other = True
                self._on_other()
            return
        self._unwrap()  # a call that ended by an exception has left the wrapper in place
        self._refuse_changed(trainer.model)
        self._model = trainer.model  # a copy, if a script went back to its best epoch
        self._wrap()

    def trained(self, trainer: Any) -> None:
        """Stop counting.

        Raises:
            ReconError: A loss or a gradient was not finite.
        """
        if trainer.model is self._model:
            self._unwrap()
            self._check()

    def _new_counter(self, layers: tuple[Layer, ...], trainer: Any) -> ConflictCounter:
        tasks = trainer.model.task_name
        try:
            return ConflictCounter(layers, tasks, trainer.device)
        except ReconError as error:
            if len(tasks) > 1:
                raise
            raise ReconError(
                f"{error} If the script first builds a Trainer for each task alone, "
                "--score-trainer N chooses the N-th Trainer that it builds."
            ) from error

    def _refuse_changed(self, model: Any) -> None:
        """Check that the columns of a gradient row are still those of the layers."""
        before, now = self._shared, parameters_of(model)
        shapes = [shape for shape, _ in now]
        if shapes != [shape for shape, _ in before] or model.task_name != self._model.task_name:
            raise ReconError(
                "The Trainer that is scored has another network or other tasks now than when "
                "scoring began, so that their conflicts cannot be counted together. Build a new "
                "Trainer for it, which --score-trainer can choose."
            )
        trains = [now[1] and not before[1] for before, now in zip(before, now, strict=True)]
        if any(trains):
            raise ReconError(
                f"Layer {', '.join(map(repr, layers_at(model, trains)))} began to train only "
                "after scoring had begun, so that its conflicts were not counted from the start. "
                "Let it train when the Trainer is built, and freeze it only afterwards: the steps "
                "in which a layer is frozen count as undefined."
            )

    def _unwrap(self) -> None:
        restore(self._model, "backward", "_compute_grad")
        step_of(self._model).calls.watched = False

    def _wrap(self) -> None:
        model = self._model
        compute, backward = model._compute_grad, model.backward

        def _compute_grad(losses: Tensor, mode: str, rep_grad: bool = False) -> Any:
            gradients = compute(losses, mode, rep_grad)
            # Counted at once: some weightings change this matrix in place afterwards.
            if not rep_grad:
                self.take_rows(step_of(model).of_all_ranks(gradients))
            return gradients

        def wrapped_backward(losses: Tensor, **kwargs: Any) -> Any:
            # Known only until the end of the step.
            self._present = present = present_tasks(model)
            if not present:  # no sample has a label: such a step trains nothing
                return backward(losses, **kwargs)
            if self._over:
                self._stop()  # the script has caught the first
            number, self.trained_steps = self.trained_steps, self.trained_steps + 1
            if self.schedule.ends(number):
                self._stop()
            self._seen = True  # not to be counted
            if not self.schedule.wants(number):
                return backward(losses, **kwargs)
            self._watch_losses(losses.detach())
            splits = self._splits(losses)
            own = None
            if not (self._watching or splits):
                own = averaged(rows_of_own_passes(model, losses, present))
            self._seen = False
            with step_of(model).watched(self) if splits else contextlib.nullcontext():
                result = backward(losses, **kwargs)
            if not self._seen and own is not None:
                self._record(own)
            elif not self._seen:
                self.missed += 1
            # A weighting may obtain per-task gradients in some steps only (GradNorm does not in
            # its first epoch), so each step decides how the next is read.
            self._watching = self._seen and not splits
            self._after_step()
            return result

        replace(model, _compute_grad=_compute_grad, backward=wrapped_backward)
        step_of(model).calls.watched = self._may_split(model)

    def _splits(self, losses: Tensor) -> bool:
        """Return whether the losses' own backward passes will be one per task, if requested."""
        model, step = self._model, step_of(self._model)
        if not self._may_split(model):
            return False
        return step.open(losses if step.present is None else step.part_of(losses))

    @staticmethod
    def _may_split(model: Any) -> bool:
        cut = model.rep_grad or hasattr(model, "rotograd")
        return not cut and hands_over(model)

    @property
    def waiting(self) -> bool:
        """See :class:`~libmtl_recon.integrations.libmtl.step.Watcher`."""
        return not self._seen

    def take_rows(self, rows: Tensor) -> None:
        """Count one step's gradients; only the first of each step."""
        if not self._seen:
            self._seen = True
            self._record(rows)

    def take_gramians(self, layers: Sequence[str], gramians: Tensor) -> None:
        """Count one step's Gramians; only the first of each step."""
        if self._seen or self._counter is None:
            return
        self._seen = True
        places = {layer.name: place for place, layer in enumerate(self._counter.layers)}
        whole = gramians.new_zeros(len(places), *gramians.shape[1:])
        there = [(places[name], index) for index, name in enumerate(layers) if name in places]
        if there:
            to, of = (list(one) for one in zip(*there, strict=True))
            whole[to] = gramians[of]
        self._counter.record_gramians(whole, self._present)

    def _record(self, gradients: Tensor) -> None:
        if self._counter is not None:
            rows = gradients.detach()
            rows = rows if self._columns is None else rows[:, self._columns]
            self._counter.record(rows, self._present)

    def _watch_losses(self, losses: Tensor) -> None:
        # As in the counter, steps after the first bad one are not checked.
        if self._counter is not None:
            fine = self._finite.all() & self._counter.finite
            finite = torch.isfinite(losses).to(fine.device)
            if len(self._present) < len(finite):
                absent = torch.ones_like(finite)
                absent[self._present] = False
                finite |= absent
            self._finite = torch.where(fine, finite, self._finite)

    def _after_step(self) -> None:
        counter = self._counter
        if counter is None:
            return
        self._on_step(counter.steps)
        if counter.steps % _CHECK_EVERY == 0:
            self._check()
        limit, stopping = self.schedule.steps, self._stopping
        if limit is not None and counter.steps >= limit:
            self._stop()
        if stopping is not None and stopping.due(counter.steps):
            self._check()
            if stopping.enough(counter.profile({})):
                self._stop()

    def _stop(self) -> None:
        from libmtl_recon.integrations.libmtl.hooks import StopRun

        self._check()
        self._over = True
        raise StopRun

    def _check(self) -> None:
        try:
            self._refuse_non_finite()
        except ReconError:
            self.failed = True
            raise

    def _refuse_non_finite(self) -> None:
        # LibMTL keeps the losses in one vector, so that a NaN in one task's spreads to the
        # gradients of all: the loss shows which task's it was.
        finite = self._finite.tolist()
        names = [repr(t) for t, fine in zip(self._model.task_name, finite, strict=True) if not fine]
        if names:
            raise ReconError(
                f"The loss of task {', '.join(names)} was not finite (NaN or inf) while scoring. "
                "Look at this task's labels and loss, or lower --lr."
            )
        if self._counter is not None:
            self._counter.check()
