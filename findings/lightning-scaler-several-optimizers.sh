#!/usr/bin/env bash
# Lightning 2.6.6, `precision="16-mixed"`, manual optimization with two optimizers: each
# `optimizer.step()` also calls the gradient scaler's `update()`. Where the first optimizer's gradients
# overflow, the scale is halved before those of the second are unscaled, which come out twice as
# large; its step is made with them. PyTorch documents `update()` once per iteration, after the steps
# of all optimizers: then the second step has the right size.
#
# Output seen, of a parameter whose gradient is 1 and whose learning rate is 1:
#     Lightning: moved by 2
#     PyTorch: moved by 1
#
# Exits with 1 if that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 lightning==2.6.6 numpy
cat > "$folder/steps.py" <<'PYTHON'
import logging
import sys
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Two(LightningModule):
    """Two parameters, each with an optimizer; the first one's scaled gradient overflows."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.first, self.second = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def loss(self):
        return 1e35 * self.first + self.second

    def training_step(self, batch, batch_index):
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(self.loss())
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD([one], lr=1.0) for one in (self.first, self.second)]


by_lightning = Two()
Trainer(
    accelerator="cpu",
    max_epochs=1,
    plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
).fit(by_lightning, [0])

by_torch, scaler = Two(), torch.amp.GradScaler("cpu")
optimizers = by_torch.configure_optimizers()
scaler.scale(by_torch.loss()).backward()
for optimizer in optimizers:
    scaler.step(optimizer)
scaler.update()

moved = [-float(one.second) for one in (by_lightning, by_torch)]
print(f"Lightning: moved by {moved[0]:g}")
print(f"PyTorch: moved by {moved[1]:g}")
sys.exit(moved != [2.0, 1.0])
PYTHON
"$folder/venv/bin/python" "$folder/steps.py"
