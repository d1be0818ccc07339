"""A step's task gradients, in the form that Gramian-based weightings need."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients import Record, columns, gramian
from libmtl_recon.gradients.combine import combine
from libmtl_recon.gradients.exchange import gramian_of_mean
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.step.step import Step, step_of

# The reason for storing rows where a task's gradient has several weights.
OF_GROUPS = "the weighting weighs each group of parameters separately"
_OWN = "libmtl_recon."
# Functions that a script's own weighting may have replaced, expecting them to be called.
_PLUMBING = ("_compute_grad", "_get_grads", "_reset_grad")
_OTHER_LOSSES = (
    "the losses passed to model.backward are not those that Trainer._compute_loss returned in "
    "this step, or no forward pass of the model led to them"
)


class TaskGradients(Protocol):
    """One step's gradients of T tasks with respect to the shared parameters."""

    @property
    def matrix(self) -> Tensor:
        """The Gramian ``[T, T]``, float64, on the CPU."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the gradients."""

    def hand_out(self, weights: Tensor) -> None:
        """Set the shared gradient to the weighted sum; weights ``[T]``, float64, on the CPU."""


@dataclass(frozen=True)
class StoredGradients:
    """The stored rows ``[T, d]``. Decoders have their gradients already.

    Attributes:
        rows: The rows.
        matrix: Their Gramian ``[T, T]``, float64, on the CPU.
    """

    model: Any
    rows: Tensor
    matrix: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the rows."""
        return self.rows.dtype

    def hand_out(self, weights: Tensor) -> None:
        """Set the shared parameters' gradient to the weighted sum of the rows."""
        self.model._reset_grad(combine(weights, self.rows, self.matrix))


@dataclass(frozen=True)
class RecordedGradients:
    """Recorded calls of a forward pass, and the Gramian; all gradients are assigned at once."""

    record: Record
    jacobian: Tensor | None
    matrix: Tensor
    dtype: torch.dtype

    def hand_out(self, weights: Tensor) -> None:
        """Set the shared parameters' gradient to the weighted sum, all others' to the losses'."""
        if self.jacobian is None:
            self.record.backward_as_it_is(weights)
        else:
            self.record.backward_as_it_is(self.jacobian.T @ weights, self.jacobian.sum(dim=0))


def shared_gradients(
    model: Any, losses: Tensor, multiply: Callable[[Tensor], Tensor] = gramian
) -> TaskGradients:
    """Compute the task gradients as ``--recon_gradients`` says.

    Args:
        model: LibMTL's model.
        losses: ``[T]``, as the weighting was given them, or derived from these.
        multiply: Computes the Gramian where there are rows.

    Raises:
        UsageError: ``rep_grad`` is on.
    """
    _refuse_rep_grad(model)
    found = _recorded(model, losses, update_follows=True)
    if found is not None:
        return found
    with step_of(model).own_rows():
        rows = _rows(model, losses)
    # The only synchronisation with the device in a step.
    return StoredGradients(model, rows, over_ranks(rows, multiply).cpu())


def stored_gradients(model: Any, losses: Tensor) -> Tensor:
    """Compute the rows ``[T, d]``, for weightings with a different weight per layer.

    Args:
        model: LibMTL's model.
        losses: See :func:`shared_gradients`.

    Raises:
        UsageError: ``rep_grad`` is on.
        ReconError: ``--recon_gradients ghost`` does not allow it.
    """
    _refuse_rep_grad(model)
    refuse_ghost(model, OF_GROUPS)
    return _rows(model, losses)


def loss_gramian(model: Any, losses: Tensor) -> Tensor:
    """Compute the Gramian alone, ``[T, T]``, float64, on the CPU; keep the graph and all ``.grad``.

    Args:
        model: LibMTL's model.
        losses: See :func:`shared_gradients`.

    Raises:
        UsageError: ``rep_grad`` is on.
    """
    _refuse_rep_grad(model)
    found = _recorded(model, losses, update_follows=False)
    if found is not None:
        return found.matrix
    with step_of(model).own_rows():
        rows = model._compute_grad(losses, mode="autograd")
    return over_ranks(rows, gramian).cpu()


def over_ranks(rows: Tensor, multiply: Callable[[Tensor], Tensor]) -> Tensor:
    """Compute the Gramian ``[T, T]`` of rows, or of their mean over the ranks, if there are any.

    Args:
        rows: ``[T, d]``, this rank's.
        multiply: Computes the Gramian in one process.
    """
    group = ranks()
    return multiply(rows) if group is None else gramian_of_mean(rows, group)


def _rows(model: Any, losses: Tensor) -> Tensor:
    model._compute_grad_dim()
    rows: Tensor = model._compute_grad(losses, mode="backward")
    return rows


def _refuse_rep_grad(model: Any) -> None:
    if model.rep_grad:
        raise UsageError(
            "--rep_grad",
            "cannot be combined with a weighting of the gradients of the shared parameters",
            True,
            "Leave --rep_grad out.",
        )


def refuse_ghost(model: Any, why: str) -> None:
    """Refuse ``--recon_gradients ghost`` where rows must be stored.

    Raises:
        ReconError: It is set.
    """
    if step_of(model).way == "ghost":
        raise ReconError(
            f"--recon_gradients ghost is not possible here: {why}. Leave it out; then rows are "
            "stored where necessary."
        )


def _recorded(model: Any, losses: Tensor, *, update_follows: bool) -> RecordedGradients | None:
    step = step_of(model)
    if step.way == "stored":
        return None
    why = _why_not(model, step)
    planned = None if why else step.planned(model)
    if planned is None:
        refuse_ghost(model, why or _OTHER_LOSSES)
        return None
    (record, scalars), plan = planned
    if not update_follows:
        plan.specific = []
    matrix = record.gramian_as_it_is(plan, scalars).cpu()
    jacobian = step.jacobian(losses, accumulate=update_follows)
    if jacobian is not None:
        jacobian = jacobian.double().cpu()
        matrix = jacobian @ matrix @ jacobian.T
    step.note_gramian(record)
    return RecordedGradients(
        record, jacobian, matrix, columns.row_dtype(list(model.get_share_params()))
    )


def _why_not(model: Any, step: Step) -> str:
    if not step.calls.wanted and not step.calls.watched:
        return "its forward pass was not recorded, since the Trainer did not build this model"
    own = [
        name
        for name in _PLUMBING
        if name in vars(model) and not type(vars(model)[name]).__module__.startswith(_OWN)
    ]
    model_class: Any = type(model)
    own += _own_plumbing(model_class)
    return f"{own[0]} is the script's own" if own else ""


@functools.lru_cache(maxsize=64)
def _own_plumbing(model_class: type) -> tuple[str, ...]:
    """Return the names of LibMTL's functions that a model's class replaces by its own."""
    return tuple(
        name
        for name in _PLUMBING
        if not getattr(model_class, name).__module__.startswith(("LibMTL.", _OWN))
    )
