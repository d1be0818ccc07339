"""A LibMTL script of a user who knows nothing of this project: two regressions, five layers.

What goes wrong with it, if anything, is chosen by --fault.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import tempfile
import time

import LibMTL.architecture
import LibMTL.weighting
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import AbsLoss
from LibMTL.metrics import AbsMetric
from LibMTL.utils import set_random_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset

LibMTL_args.add_argument("--epochs", default=4, type=int)
LibMTL_args.add_argument("--bs", default=32, type=int)
LibMTL_args.add_argument("--loader_workers", default=0, type=int)
LibMTL_args.add_argument("--pause", default=0.0, type=float, help="seconds a training batch")
LibMTL_args.add_argument("--fault", default="none")
LibMTL_args.add_argument("--tags", nargs="*", default=[])
LibMTL_args.add_argument("--quick", action="store_true")
params = LibMTL_args.parse_args()
set_random_seed(params.seed)
print("time of the first line:", time.time())
print("tags", params.tags, "quick", params.quick, "threads", torch.get_num_threads())
fault, _, only = params.fault.partition(":")
if only and params.weighting != only:
    fault = "none"  # e.g. --fault exit:GradOPS
if fault == "exit":
    sys.exit("no such data")
if fault == "segfault":
    os.kill(os.getpid(), signal.SIGSEGV)
if fault == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if fault == "chdir":
    os.chdir(tempfile.mkdtemp())
if fault == "no_trainer":
    sys.exit(0)


class Points(Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 4, generator=generator)
        a = torch.sin(2 * self.x[:, 0]) + self.x[:, 1]
        self.y = {"up": a, "down": self.x[:, 2] - a}

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], {task: y[index, None] for task, y in self.y.items()}


class Slow:
    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            time.sleep(params.pause)
            yield batch


class Error(AbsMetric):
    """Mean absolute error and the share of good predictions."""

    def update_fun(self, pred, gt):
        self.record.append((pred - gt).abs().mean().item())
        self.bs.append(len(gt))

    def score_fun(self):
        error = sum(r * b for r, b in zip(self.record, self.bs, strict=True)) / sum(self.bs)
        if fault == "nan":
            error = float("nan")
        return [error, 1 / (1 + error)]


class Squares(AbsLoss):
    def compute_loss(self, pred, gt):
        return nn.functional.mse_loss(pred, gt)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.two, self.three, self.four = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)

    def forward(self, x):
        x = torch.tanh(self.two(torch.tanh(self.norm(self.one(x)))))
        return torch.tanh(self.four(torch.tanh(self.three(x))))


def loader(count, seed, workers=0):
    return DataLoader(Points(count, seed), params.bs, num_workers=workers, drop_last=True)


kwargs, optim_param, scheduler_param = prepare_args(params)
names = {"weighting": params.weighting, "architecture": params.arch}
if "save_path" in inspect.signature(Trainer.__init__).parameters:
    kwargs.update(save_path=None, load_path=None)
else:
    names = {
        "weighting": vars(LibMTL.weighting)[params.weighting],
        "architecture": vars(LibMTL.architecture)[params.arch],
    }


def build():
    return Trainer(
        task_dict={
            task: {
                "metrics": ["Err", "Fit"],
                "metrics_fn": Error(),
                "loss_fn": Squares(),
                "weight": [0, 1],
            }
            for task in ("up", "down")
        },
        encoder_class=Encoder,
        decoders=nn.ModuleDict({task: nn.Linear(5, 1) for task in ("up", "down")}),
        rep_grad=params.rep_grad,
        multi_input=params.multi_input,
        optim_param={"optim": "adam", "lr": 0.01},
        scheduler_param=scheduler_param,
        **names,
        **kwargs,
    )


trainer = build()
parts = [Slow(loader(128, 1, params.loader_workers)), loader(64, 3), params.epochs]
if fault != "no_val":
    parts.append(loader(64, 2))
if fault == "calls":  # an outer loop of the script's own
    for _ in range(params.epochs):
        trainer.train(*parts[:2], 1)
        trainer.test(parts[3], mode="val")
else:
    trainer.train(*parts)
if fault == "folds":
    build().train(*parts)
