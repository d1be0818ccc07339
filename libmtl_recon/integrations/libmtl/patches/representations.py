"""LibMTL asks the wrong way round whether all tasks have one representation.

With ``rep_grad`` it keeps the tasks' representations, to go on from them into the encoder. Where
the encoder returns one a task (Cross_stitch) it keeps the last one alone, and all other tasks'
gradients are lost.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from libmtl_recon.integrations.libmtl.features import source_of
from libmtl_recon.integrations.libmtl.patches.patch import Patch


def prepare_rep(self: Any, rep: Tensor, task: str, same_rep: bool | None = None) -> Tensor:
    """What a task's decoder is given: the representation, or with ``rep_grad`` a leaf in its place.

    Each task's own is kept, even if it is every task's: that gives the same gradients.
    """
    if not self.rep_grad:
        return rep
    self.rep[task] = rep
    self.rep_tasks[task] = rep.detach().clone().requires_grad_()
    leaf: Tensor = self.rep_tasks[task]
    return leaf


def _needed(libmtl: ModuleType) -> bool:
    return "True if isinstance(s_rep, list)" in source_of(
        libmtl.architecture.AbsArchitecture.forward
    )


def _apply(libmtl: ModuleType) -> None:
    libmtl.architecture.AbsArchitecture._prepare_rep = prepare_rep


PATCH = Patch(
    name="task-representations",
    reason="with --rep_grad, LibMTL's Cross_stitch trains by the last task's representation alone",
    needed=_needed,
    apply=_apply,
)
