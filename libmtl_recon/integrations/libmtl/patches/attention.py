"""In evaluation torch computes attention by another function than in training.

LibMTL's Trainer evaluates without gradients, where ``nn.TransformerEncoder`` gives zeros at padded
positions at which it was trained with values. A network with task-specific layers cannot be
evaluated so, and would be compared with plain sharing by another function.
"""

from __future__ import annotations

from types import ModuleType

import torch

from libmtl_recon.integrations.libmtl.patches.patch import Patch


def _needed(_: ModuleType) -> bool:
    return torch.backends.mha.get_fastpath_enabled()


def _apply(_: ModuleType) -> None:
    from libmtl_recon.splitting.attention import evaluate_as_trained

    evaluate_as_trained()


PATCH = Patch(
    name="attention-in-evaluation",
    reason="torch evaluates transformers by a function that gives zeros at padded positions",
    needed=_needed,
    apply=_apply,
)
