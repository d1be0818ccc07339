"""Patches of LibMTL's architectures."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from libmtl_recon.integrations.libmtl.known_sources import BOTH, PYPI, find
from libmtl_recon.integrations.libmtl.patches.patch import Defect, patch, stand_in


@patch("attention-in-evaluation", needs=lambda _: bool(torch.backends.mha.get_fastpath_enabled()))
def attention_in_evaluation(_: ModuleType) -> None:
    """PyTorch evaluates transformers with a function that returns zeros at padded positions.

    LibMTL's Trainer evaluates without gradients, where ``nn.TransformerEncoder`` uses it; the
    network was trained with values there. A network with task-specific layers cannot be evaluated
    this way, and would be compared with plain sharing evaluated by another function.
    """
    from libmtl_recon.splitting.attention import evaluate_as_trained

    evaluate_as_trained()


@patch(
    "in-place-zero-grad",
    needs=Defect(
        "architecture.AbsArchitecture.zero_grad_share_params",
        "weighting.AbsWeighting._reset_grad",
        of=PYPI,
    ),
)
def in_place_zero_grad(libmtl: ModuleType) -> None:
    """LibMTL's gradient weightings write into gradients that zero_grad now removes.

    Between two tasks LibMTL resets the shared parameters' gradients, and writes its update into
    them at the end, for which they must still exist.
    """
    for value in vars(libmtl.architecture).values():
        if isinstance(value, type) and "zero_grad_share_params" in vars(value):
            own = vars(value)["zero_grad_share_params"]
            stand_in(value, "zero_grad_share_params", _in_place(own))
    stand_in(libmtl.weighting.AbsWeighting, "_reset_grad", _reset_grad)


def _in_place(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return an architecture's ``zero_grad_share_params`` that keeps the gradients it zeroes."""

    def zero_grad_share_params(self: Any) -> None:
        before = [(parameter, parameter.grad) for parameter in self.parameters()]
        original(self)
        for parameter, gradient in before:
            if gradient is not None and parameter.grad is None:
                parameter.grad = gradient.detach().zero_()

    return zero_grad_share_params


def _reset_grad(self: Any, new_grads: Tensor) -> None:
    """Write a gradient ``[d]`` to the shared parameters that train.

    A parameter that is frozen, or that no task reached, gets none, so that weight decay does not
    change it.
    """
    shared = list(self.get_share_params())
    for parameter, part in zip(shared, new_grads.split([p.numel() for p in shared]), strict=True):
        # A weighting that works with `torch.autograd.grad` leaves no gradients.
        if parameter.grad is not None or (parameter.requires_grad and bool(part.any())):
            parameter.grad = part.view_as(parameter).to(parameter).clone()


@patch("mtan-zero-grad", needs=Defect("architecture.MTAN.zero_grad_share_params", of=BOTH))
def mtan_zero_grad(libmtl: ModuleType) -> None:
    """With gradient weightings, LibMTL's MTAN leaves its attention untrained or sums gradients.

    On a plain ResNet MTAN also zeroes the gradients of the tasks' attention between two tasks, so
    that the attention is never trained; on an encoder that wraps a ResNet it does not zero those of
    the wrapper's own layers, which add up from task to task.
    """

    def zero_grad_share_params(self: Any) -> None:
        for parameter in self.get_share_params():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.detach().zero_()

    stand_in(libmtl.architecture.MTAN, "zero_grad_share_params", zero_grad_share_params)


@patch(
    "task-representations",
    needs=Defect(
        "architecture.AbsArchitecture.forward",
        "architecture.AbsArchitecture._prepare_rep",
        of=PYPI,
    ),
)
def task_representations(libmtl: ModuleType) -> None:
    """With --rep_grad, LibMTL's Cross_stitch trains with the last task's representation only.

    LibMTL keeps the tasks' representations, to continue from them into the encoder, but inverts the
    check whether all tasks have one: where the encoder returns one per task it keeps the last one,
    and all other tasks' gradients are lost.
    """

    def _prepare_rep(self: Any, rep: Tensor, task: str, same_rep: bool | None = None) -> Tensor:
        if not self.rep_grad:
            return rep
        # Each task's own is kept, even if all are the same: that gives the same gradients.
        self.rep[task] = rep
        self.rep_tasks[task] = rep.detach().clone().requires_grad_()
        leaf: Tensor = self.rep_tasks[task]
        return leaf

    stand_in(libmtl.architecture.AbsArchitecture, "_prepare_rep", _prepare_rep)


def binary_codes(experts: int, digits: int) -> Tensor:
    """Return the binary code of each expert's index: ``[1, experts, digits]``, bool, MSB first.

    Source: "DSelect-k: Differentiable Selection in the Mixture of Experts" (NeurIPS 2021).
    """
    places = torch.arange(digits - 1, -1, -1)
    return ((torch.arange(experts)[:, None] >> places) & 1).bool()[None]


def _text_is_true() -> bool:
    return bool(np.array(["0"]).astype(bool)[0])


@patch(
    "dselect-k-codes",
    needs=Defect("architecture.DSelect_k.__init__", of=BOTH, where=_text_is_true),
)
def dselect_k_codes(libmtl: ModuleType) -> None:
    """LibMTL's DSelect_k gives all experts the same code under NumPy 2, so it selects none.

    It makes the codes by converting the strings "0" and "1" to booleans, and NumPy 2 converts every
    string that is not empty to true: all experts get the same weight.
    """
    build = libmtl.architecture.DSelect_k.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # is set as __init__
        build(self, *args, **kwargs)
        codes = self._binary_codes
        self._binary_codes = binary_codes(self.num_experts, codes.shape[-1]).to(codes.device)

    stand_in(libmtl.architecture.DSelect_k, "__init__", __init__)


_REGULARISER = Defect("architecture.DSelect_k._entropy_reg_loss", of=BOTH)


@patch(
    "dselect-k-look",
    needs=lambda libmtl: find(libmtl, "weighting.FAMO") is not None and _REGULARISER(libmtl),
)
def dselect_k_look(libmtl: ModuleType) -> None:
    """LibMTL's DSelect_k fails in a training pass without gradients, such as FAMO's.

    It back-propagates a regulariser in each forward pass of training. FAMO computes the losses
    again after each step, in training mode and without gradients.
    """
    regularise = libmtl.architecture.DSelect_k._entropy_reg_loss

    def _entropy_reg_loss(self: Any, inputs: Tensor) -> None:
        if torch.is_grad_enabled():
            regularise(self, inputs)

    stand_in(libmtl.architecture.DSelect_k, "_entropy_reg_loss", _entropy_reg_loss)
