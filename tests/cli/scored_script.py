"""A LibMTL script that knows nothing of this project, and what scoring it has kept."""

from __future__ import annotations

from libmtl_recon import ConflictProfile, ProfileCache

SCRIPT = '''
import sys
import threading
import time

import numpy as np
import torch
import LibMTL.architecture
import LibMTL.weighting
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import nn

params = LibMTL_args.parse_args()
kwargs, optimizer, scheduler = prepare_args(params)
torch.manual_seed(params.seed)
np.random.seed(params.seed)
TASKS = ("left", "right")


class Encoder(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2),
                         nn.Linear(6, 3))


class Data:
    """How it ends is chosen by the learning rate's step size, a flag that nobody else uses here."""

    def __len__(self):
        return 4

    def __iter__(self):
        for step in range(4):
            if step == 3 and params.step_size == 1:
                raise ValueError("a mishap of the script's own")
            if step == 3 and params.step_size == 2:
                raise KeyboardInterrupt
            x = torch.randn(8, 4)
            yield (x * np.nan if step == 3 and params.step_size == 3 else x), {
                "left": (x[:, 0] > 0).long(), "right": (x[:, 0] < x[:, 1]).long()}


trainer = Trainer(
    task_dict={task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(),
                      "weight": [1]} for task in TASKS},
    weighting=vars(LibMTL.weighting)[params.weighting],
    architecture=vars(LibMTL.architecture)[params.arch],
    encoder_class=Encoder,
    decoders=nn.ModuleDict({task: nn.Linear(3, 2) for task in TASKS}),
    rep_grad=params.rep_grad, multi_input=params.multi_input,
    optim_param=optimizer, scheduler_param=scheduler, **kwargs)
trainer.train(Data(), Data(), 0 if params.step_size == 4 else 1)
print("weights", [p.sum().item() for p in trainer.model.parameters()])
'''


def kept() -> ConflictProfile:
    (entry,) = ProfileCache().list()
    return entry.profile
