#!/usr/bin/env bash
# TorchJD 0.18.0: a step along the update of the aggregator `IMTLG` may increase every loss, also
# where no two gradients conflict and plain gradient descent would decrease all of them.
#
# The update has the same projection onto every gradient, and weights of sum 1. For three gradients
# or more the weights of an equal *positive* projection may have a negative sum, if a short gradient
# lies nearly between longer ones; divided by their sum, they project onto every gradient alike and
# negatively. (The condition is the paper's; LibMTL's IMTL has the same weights.)
#
# Output seen:
#     least inner product of two gradients: 0.0
#     inner products of the mean gradient with each gradient, all positive: True
#     projections of IMTLG's update onto each gradient: [-0.0147, -0.0147, -0.0147]
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy torchjd==0.18.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from torchjd.aggregation import IMTLG

# The third, a hundredth as long as the others, is nearly in the plane of both, between them.
gradients = torch.tensor(
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.006, 0.006, 0.0053]], dtype=torch.float64
)
update = IMTLG()(gradients)
projections = (gradients @ update / gradients.norm(dim=1)).tolist()
least = float((gradients @ gradients.T).min())
downhill = bool((gradients @ gradients.mean(dim=0) > 0).all())
shown = [round(projection, 4) for projection in projections]
print(f"least inner product of two gradients: {least}")
print(f"inner products of the mean gradient with each gradient, all positive: {downhill}")
print(f"projections of IMTLG's update onto each gradient: {shown}")
sys.exit((least, downhill, shown) != (0.0, True, [-0.0147] * 3))
PYTHON
