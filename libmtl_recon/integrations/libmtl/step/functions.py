"""What stands in for LibMTL's own functions of a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from libmtl_recon.gradients import columns
from libmtl_recon.integrations.libmtl.step.image import image_of
from libmtl_recon.integrations.libmtl.step.step import assign_grad, step_of, task_roots, task_rows

# They draw three batches a step and hand all losses over at once, [3, T].
SEVERAL_BATCHES = {"MoDo": 3, "SDMGrad": 3}
_KNOWN = ("LibMTL.", "libmtl_recon.")


def split_compute_loss(original: Callable[..., Any]) -> Callable[..., Any]:
    """``Trainer._compute_loss`` that remembers one scalar a task."""

    def _compute_loss(self: Any, preds: Any, gts: Any, task_name: str | None = None) -> Tensor:
        step, batches = step_of(self.model), _batches(self.model)
        if self.multi_input:
            loss: Tensor = trainable(original(self, preds, gts, task_name), preds)
            if torch.is_grad_enabled():
                step.note_scalar(loss, batches * self.task_num)
            return loss
        scalars = [
            trainable(
                self.meter.losses[task]._update_loss(preds[task], gts[task]).reshape(()),
                preds[task],
            )
            for task in self.task_name
        ]
        # LibMTL's vector has the default dtype.
        losses = torch.stack([scalar.to(torch.get_default_dtype()) for scalar in scalars])
        if losses.requires_grad:
            step.note_vector(losses, scalars, batches)
        return losses

    return _compute_loss


def trainable(loss: Tensor, prediction: Any) -> Tensor:
    """A loss that can be differentiated, if its prediction can.

    A loss may be a constant in some steps, such as one over no valid pixel. Its gradient is zero
    then, also where all losses are constants.
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


def split_backward(model_class: Any) -> Callable[..., Any]:
    """A weighting's ``backward`` that is given losses without the graphs behind them."""

    def backward(self: Any, losses: Any, **kwargs: Any) -> Any:
        step, own = step_of(self), super(model_class, self).backward
        try:
            if not step.open(losses) or not _takes_a_cut_graph(own.__func__):
                return own(losses, **kwargs)
            result = own(step.hand_over(), **kwargs)
            step.back_propagate(list(self.get_share_params()))
            return result
        finally:
            step.close()

    backward.hands_over = True  # type: ignore[attr-defined]
    return backward


def hands_over(model: Any) -> bool:
    """Whether the model's weighting is given losses without the graphs behind them."""
    model_class = type(model)
    own = super(model_class, model).backward
    split = getattr(model_class.backward, "hands_over", False)
    return split and own.__func__.__module__.startswith(_KNOWN)


def compute_grad(self: Any, losses: Any, mode: str, rep_grad: bool = False) -> Any:
    """The gradient of each task: ``[T, d]`` of the shared parameters.

    Args:
        self: LibMTL's model.
        losses: ``[T]``.
        mode: ``backward`` adds to the gradients of the decoders and of all else that is not
            shared; ``autograd`` leaves them, and the graph, alone.
        rep_grad: The gradients of the representations instead: one tensor ``[T, ...]``, or a list
            of T tensors if each task has a representation of its own.

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
    """Give the shared parameters the weighted sum of the tasks' gradients.

    Args:
        self: LibMTL's model.
        batch_weight: ``[T]``.
        per_grads: With ``rep_grad``, the gradients of the representations.
        grads: Without it, ``[T, d]``, or the image that was shown instead.
    """
    image = image_of(self)
    if image is not None:
        reset_grad(self, image.combine(batch_weight, grads))
    elif not self.rep_grad:
        reset_grad(self, batch_weight.to(grads) @ grads)
    elif isinstance(self.rep, dict):
        # All at once: where the tasks have one representation, the encoder is walked once.
        # One that has no graph is that of a frozen encoder.
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
    """Give the shared parameters a gradient ``[d]``, in the layout of the rows."""
    # LibMTL's weightings, and ours, make it anew in each step; a script's own may keep it.
    kept = not type(self).__bases__[-1].__module__.startswith(_KNOWN)
    assign_grad(self, new_grads.clone() if kept else new_grads)


def compute_grad_dim(self: Any) -> None:
    """Note how many columns each shared parameter takes in a gradient, and all of them."""
    self.grad_index = columns.widths(list(self.get_share_params()))
    self.grad_dim = sum(self.grad_index)


def _takes_a_cut_graph(weighting: Any) -> bool:
    # Nash_MTL clips gradients that would reach the parameters only after its end.
    clips = "clip_grad_norm_" in weighting.__code__.co_names
    return weighting.__module__.startswith(_KNOWN) and not clips


def _batches(model: Any) -> int:
    return SEVERAL_BATCHES.get(type(model).__bases__[-1].__name__, 1)
