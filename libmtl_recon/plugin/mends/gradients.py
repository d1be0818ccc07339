"""``zero_grad`` removes gradients today; LibMTL counts on their being zeroed in place.

Between two tasks LibMTL resets the shared parameters' gradients, and writes its update into
them at the end, for which they must still exist.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from libmtl_recon.plugin.features import source_of
from libmtl_recon.plugin.mends.mend import Mend


def zero_grad_share_params(self: Any) -> None:
    """Zero the shared parameters' gradients in place, where they have one."""
    for parameter in self.get_share_params():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.detach().zero_()


def reset_grad(self: Any, new_grads: Tensor) -> None:
    """Write a gradient ``[d]`` to the shared parameters that train.

    A parameter that is frozen, or that no task reached, is left without one, so that weight decay
    does not move it.
    """
    shared = list(self.get_share_params())
    for parameter, part in zip(shared, new_grads.split([p.numel() for p in shared]), strict=True):
        # A weighting that works with `torch.autograd.grad` leaves no gradients behind it.
        if parameter.grad is not None or (parameter.requires_grad and bool(part.any())):
            parameter.grad = part.view_as(parameter).to(parameter).clone()


def _needed(libmtl: ModuleType) -> bool:
    architecture = libmtl.architecture.AbsArchitecture
    return "set_to_none=False" not in source_of(architecture.zero_grad_share_params)


def _apply(libmtl: ModuleType) -> None:
    for value in vars(libmtl.architecture).values():
        if isinstance(value, type) and "zero_grad_share_params" in vars(value):
            value.zero_grad_share_params = zero_grad_share_params  # type: ignore[attr-defined]
    libmtl.weighting.AbsWeighting._reset_grad = reset_grad


MEND = Mend(
    name="in-place-zero-grad",
    reason="LibMTL's gradient weightings write into gradients that zero_grad now removes",
    needed=_needed,
    apply=_apply,
)
