"""``zero_grad`` removes gradients today; LibMTL counts on their being zeroed in place.

Between two tasks LibMTL resets the shared parameters' gradients, and writes its update into
them at the end, for which they must still exist.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def in_place(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """An architecture's ``zero_grad_share_params`` that keeps the gradients it zeroes."""

    @functools.wraps(original)
    def zero_grad_share_params(self: Any) -> None:
        before = [(parameter, parameter.grad) for parameter in self.parameters()]
        original(self)
        for parameter, gradient in before:
            if gradient is not None and parameter.grad is None:
                parameter.grad = gradient.detach().zero_()

    return zero_grad_share_params


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
            original = vars(value)["zero_grad_share_params"]
            value.zero_grad_share_params = in_place(original)  # type: ignore[attr-defined]
    libmtl.weighting.AbsWeighting._reset_grad = reset_grad


PATCH = Patch(
    name="in-place-zero-grad",
    reason="LibMTL's gradient weightings write into gradients that zero_grad now removes",
    needed=_needed,
    apply=_apply,
)
