"""LibMTL's MTAN zeroes the wrong gradients between two tasks.

On a plain ResNet it zeroes those of the tasks' attention as well, which is then never trained; on
an encoder that wraps a ResNet it leaves those of the wrapper's own layers, which add up from task
to task.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def zero_grad_share_params(self: Any) -> None:
    """Zero the shared parameters' gradients in place, and no others."""
    for parameter in self.get_share_params():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.detach().zero_()


def _needed(libmtl: ModuleType) -> bool:
    return "named_modules" in source_of(libmtl.architecture.MTAN.zero_grad_share_params)


def _apply(libmtl: ModuleType) -> None:
    libmtl.architecture.MTAN.zero_grad_share_params = zero_grad_share_params


PATCH = Patch(
    name="mtan-zero-grad",
    reason="a gradient weighting leaves LibMTL's MTAN its attention untrained, or adds tasks up",
    needed=_needed,
    apply=_apply,
)
