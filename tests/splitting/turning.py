"""RotoGrad's rotations, far from where they start."""

from __future__ import annotations

from typing import Any

import torch
from test_libmtl import ARGS
from torch import Tensor


def turned(model: Any, losses: Tensor) -> Any:
    """A model whose rotations, which the first step makes, are far from where they start."""
    model.backward(losses, **ARGS["RotoGrad"])
    for rotation in model.rotograd.rotations.values():
        turn = torch.linalg.qr(torch.randn_like(rotation.matrix()))[0]
        turn[:, 0] *= turn.det().sign()
        rotation.start_at(turn)
    return model.eval()
