"""A user's script, which knows nothing of ranks; FAIL says what goes wrong, and on which rank."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.utils import set_random_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Points(Dataset[Any]):
    def __init__(self) -> None:
        self.x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        x = self.x[index]
        return x, {"a": int(x[0] > 0), "b": int(x[1] > x[2])}


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 12), nn.Linear(12, 7)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == 12:
            fail()
        return torch.tanh(self.two(torch.tanh(self.one(x))))


def fail() -> None:
    what, _, rank = os.environ.get("FAIL", "").partition(" on ")
    if rank not in ("all", os.environ.get("RANK", "0")):
        return
    if what == "raise":
        raise ValueError("the script's own fault")
    if what == "leave":
        sys.exit("there is no such data")
    if what == "exit":
        sys.exit(7)
    if what:
        os.kill(os.getpid(), getattr(signal, what))


def main() -> None:
    LibMTL_args.add_argument("--out", default="model.pt")
    params = LibMTL_args.parse_args()
    set_random_seed(params.seed)
    kwargs, optim_param, scheduler_param = prepare_args(params)
    about = {"metrics": ["Acc"], "weight": [1]}
    tasks = {task: {**about, "metrics_fn": AccMetric(), "loss_fn": CELoss()} for task in ("a", "b")}
    trainer = Trainer(
        task_dict=tasks,
        weighting=vars(weightings)[params.weighting],
        architecture=vars(architectures)[params.arch],
        encoder_class=Encoder,
        decoders=nn.ModuleDict({task: nn.Linear(7, 2) for task in tasks}),
        rep_grad=params.rep_grad,
        multi_input=params.multi_input,
        optim_param=optim_param,
        scheduler_param=scheduler_param,
        **kwargs,
    )
    loaders = DataLoader(Points(), 7, shuffle=True), DataLoader(Points(), 7)
    trainer.train(*loaders, epochs=3)
    torch.save(trainer.model.state_dict(), params.out)
    loaded = torch.load(params.out, weights_only=True)
    print("loaded", len(loaded), "tensors from", Path(params.out).name)


if __name__ == "__main__":
    main()
