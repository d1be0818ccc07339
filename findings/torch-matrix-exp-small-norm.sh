#!/usr/bin/env bash
# PyTorch 2.14.1: `torch.linalg.matrix_exp` of float64 matrices on the CPU loses six digits for small
# norms. It takes a short polynomial below a norm of 0.05, which is off by 2e-10 there; from 0.05 on it
# is exact to rounding. A rotation that is the exponential of a small skew-symmetric matrix (RotoGrad's,
# or `torch.nn.utils.parametrizations.orthogonal` with orthogonal_map="matrix_exp" near its start) is
# orthogonal to 1e-10 only, whatever its dtype promises.
#
# Output seen, of [[0, -t], [t, 0]], against cos t and sin t:
#     t = 0.010: off by 8.1e-14
#     t = 0.030: off by 2.0e-11
#     t = 0.049: off by 2.3e-10
#     t = 0.050: off by 0.0e+00
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import math
import sys

import torch


def off_by(t):
    """The largest error of the exponential of [[0, -t], [t, 0]], which is a turn by t."""
    generator = torch.tensor([[0.0, -t], [t, 0.0]], dtype=torch.float64)
    turn = [[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]]
    exact = torch.tensor(turn, dtype=torch.float64)
    return float((torch.linalg.matrix_exp(generator) - exact).abs().max())


seen = {t: off_by(t) for t in (0.01, 0.03, 0.049, 0.05)}
for t, error in seen.items():
    print(f"t = {t:.3f}: off by {error:.1e}")
sys.exit(not (1e-10 < seen[0.049] < 1e-9 and seen[0.05] < 1e-15))
PYTHON
