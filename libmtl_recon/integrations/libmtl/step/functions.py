"""Replacements of LibMTL's own functions of a training step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.gradients import columns
from libmtl_recon.integrations.libmtl.data_parallel.group import ranks
from libmtl_recon.integrations.libmtl.known_sources import unpatched, versions_of
from libmtl_recon.integrations.libmtl.step.step import assign_grad, step_of, task_roots, task_rows
from libmtl_recon.integrations.libmtl.step.unknown import of_unknown_weighting
from libmtl_recon.integrations.libmtl.wrapper import hook_names

# They draw three batches per step and pass all losses at once, [3, T].
SEVERAL_BATCHES = {"MoDo": 3, "SDMGrad": 3}
_OWN = "libmtl_recon."
_KNOWN = ("LibMTL.", _OWN)
# They clip gradients that would reach the parameters only after they return; ours do not.
_CLIPPING = frozenset(("Nash_MTL",))


def split_losses(
    proceed: Callable[..., Any], trainer: Any, /, preds: Any, gts: Any, task_name: str | None = None
) -> Tensor:
    """Wrap ``Trainer._compute_loss``: remember one scalar per task."""
    step, batches = step_of(trainer.model), _batches(trainer.model)
    if trainer.multi_input:
        loss: Tensor = trainable(proceed(trainer, preds, gts, task_name), preds)
        if torch.is_grad_enabled():
            step.note_scalar(loss, batches * trainer.task_num)
        return loss
    scalars = [
        trainable(
            trainer.meter.losses[task]._update_loss(preds[task], gts[task]).reshape(()),
            preds[task],
        )
        for task in trainer.task_name
    ]
    # LibMTL's vector has the default dtype.
    losses = torch.stack([scalar.to(torch.get_default_dtype()) for scalar in scalars])
    if losses.requires_grad:
        step.note_vector(losses, scalars, batches)
    return losses


def trainable(loss: Tensor, prediction: Any) -> Tensor:
    """Return a loss that can be differentiated, if its prediction can.

    A loss may be a constant in some steps, such as one over no valid pixel. Its gradient is then
    zero, also where all losses are constants.
    """
    if loss.requires_grad or not torch.is_grad_enabled() or not _has_graph(prediction):
        return loss
    return loss.detach().requires_grad_()


def _has_graph(prediction: Any) -> bool:
    if isinstance(prediction, Tensor):
        return prediction.requires_grad
    if isinstance(prediction, Mapping):
        return any(_has_graph(part) for part in prediction.values())
    return isinstance(prediction, list | tuple) and any(_has_graph(part) for part in prediction)


def note_calls(proceed: Callable[..., Any], model: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Record the calls of a model's forward pass, if the Gramian will be needed."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return proceed(model, *args, **kwargs)
    step = step_of(model)
    calls = step.calls
    if step.way == "stored" or not (calls.wanted or calls.watched):
        return proceed(model, *args, **kwargs)
    with calls.noting(model, (args, kwargs)):
        return proceed(model, *args, **kwargs)


def cut_graph(proceed: Callable[..., Any], model: Any, /, losses: Any, **kwargs: Any) -> Any:
    """Pass losses without their graphs to a weighting's ``backward``."""
    step = step_of(model)
    try:
        known = step.open(losses)
        if not _takes_a_cut_graph(_own_backward(model)):
            if ranks() is not None:
                return of_unknown_weighting(proceed, model, losses, **kwargs)
            return proceed(model, losses, **kwargs)
        if not known:
            return proceed(model, losses, **kwargs)
        result = proceed(model, step.hand_over(), **kwargs)
        step.back_propagate(model)
        return result
    finally:
        step.close()


def hands_over(model: Any) -> bool:
    """Return whether the model's weighting is given losses without their graphs."""
    return "cut-graph" in hook_names(type(model).backward) and _takes_a_cut_graph(
        _own_backward(model)
    )


def compute_grad(self: Any, losses: Any, mode: str, rep_grad: bool = False) -> Any:
    """Compute the gradient of each task: ``[T, d]`` for the shared parameters.

    Args:
        self: LibMTL's model.
        losses: ``[T]``.
        mode: ``backward`` adds to the gradients of the decoders and of all other parameters that
            are not shared; ``autograd`` leaves them, and the graph, unchanged.
        rep_grad: Compute the gradients of the representations instead: one tensor ``[T, ...]``,
            or a list of T tensors if each task has its own representation.

    Raises:
        ValueError: There is no such mode.
    """
    if mode not in ("backward", "autograd"):
        raise ValueError(f"The mode must be backward or autograd (got {mode!r}).")
    if not rep_grad:
        return task_rows(self, losses, accumulate=mode == "backward")
    roots = task_roots(self, losses, accumulate=True)
    gradients = []
    for index, (task, (tensors, factors)) in enumerate(zip(self.task_name, roots, strict=True)):
        if tensors:
            torch.autograd.backward(tensors, factors, retain_graph=index + 1 < len(roots))
        leaf = self.rep_tasks[task]
        gradients.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    return gradients if isinstance(self.rep, dict) else torch.stack(gradients)


def backward_new_grads(
    self: Any, batch_weight: Tensor, per_grads: Any = None, grads: Any = None
) -> None:
    """Set the shared parameters' gradient to the weighted sum of the tasks' gradients.

    Args:
        self: LibMTL's model.
        batch_weight: ``[T]``.
        per_grads: With ``rep_grad``, the gradients of the representations.
        grads: Without it, ``[T, d]``.
    """
    if not self.rep_grad:
        reset_grad(self, batch_weight.to(grads) @ grads)
    elif isinstance(self.rep, dict):
        # All at once: where the tasks have one representation, the encoder is traversed once.
        # A representation without a graph is that of a frozen encoder.
        found = [
            (self.rep[task], w * g)
            for task, w, g in zip(self.task_name, batch_weight, per_grads, strict=True)
            if self.rep[task].requires_grad
        ]
        if found:
            torch.autograd.backward([r for r, _ in found], [g for _, g in found])
    elif self.rep.requires_grad:
        self.rep.backward(torch.tensordot(batch_weight.to(per_grads), per_grads, dims=1))


def reset_grad(self: Any, new_grads: Tensor) -> None:
    """Set the shared parameters' gradient ``[d]``, in the layout of the rows."""
    # LibMTL's weightings, and ours, create it anew in each step; a script's own may keep it.
    kept = not type(self).__bases__[-1].__module__.startswith(_KNOWN)
    assign_grad(self, new_grads.clone() if kept else new_grads)


def compute_grad_dim(self: Any) -> None:
    """Store the number of gradient columns of each shared parameter, and of all."""
    self.grad_index = columns.widths(list(self.get_share_params()))
    self.grad_dim = sum(self.grad_index)


@functools.lru_cache(maxsize=64)
def _takes_a_cut_graph(weighting: Any) -> bool:
    """Return whether a ``backward`` is ours, or a known LibMTL's that needs only the losses."""
    name = weighting.__qualname__.partition(".")[0]
    if weighting.__module__.startswith(_OWN):
        return True
    if name in _CLIPPING and unpatched(weighting) is weighting:
        return False
    return bool(versions_of(weighting, f"weighting.{name}.backward"))


def _own_backward(model: Any) -> Any:
    """Return the ``backward`` that the model's class, made by LibMTL, has from its weighting."""
    return super(type(model), model).backward.__func__


def _batches(model: Any) -> int:
    return SEVERAL_BATCHES.get(type(model).__bases__[-1].__name__, 1)
