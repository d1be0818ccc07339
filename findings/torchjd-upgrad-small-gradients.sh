#!/usr/bin/env bash
# TorchJD 0.18.0: the aggregator `UPGrad` depends on how long the gradients are. Of a Gramian whose
# trace is below `norm_eps` (1e-4), it takes no projection: the update is the plain mean, which
# conflicts with a task's gradient. Losses multiplied by a small constant, or gradients that have
# become shorter than 0.01 in training, so switch the method off without a word.
# `projector=QuadprogProjector(norm_eps=0.0)` keeps it.
#
# Output seen:
#     gradients of length 1: least inner product with a task's gradient 0.1
#     gradients of length 0.001: -0.5 of a squared length
#     gradients of length 0.001, norm_eps=0.0: 0.1
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy torchjd==0.18.0 qpsolvers==4.13.0 quadprog==0.1.14
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torchjd.aggregation import UPGrad
from torchjd.linalg import QuadprogProjector

# The second points away from the first, and is three times as long.
directions = torch.tensor([[1.0, 0.0], [-2.0, 1.0]])


def least(aggregator, length):
    """The update's least inner product with a gradient, in units of the squared length."""
    gradients = directions * length
    found = float((gradients @ aggregator(gradients)).min()) / length**2
    return round(found, 2) + 0.0


exact = QuadprogProjector(norm_eps=0.0)
seen = (least(UPGrad(), 1.0), least(UPGrad(), 1e-3), least(UPGrad(projector=exact), 1e-3))
print(f"gradients of length 1: least inner product with a task's gradient {seen[0]}")
print(f"gradients of length 0.001: {seen[1]} of a squared length")
print(f"gradients of length 0.001, norm_eps=0.0: {seen[2]}")
sys.exit(seen != (0.1, -0.5, 0.1))
PYTHON
