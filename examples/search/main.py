"""An ordinary LibMTL script: two tasks on the same points, one of them noisy.

It does not import libmtl_recon. It runs with LibMTL's PyPI release and with its main branch.
"""

import inspect

import LibMTL.architecture
import LibMTL.weighting
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.utils import set_device, set_random_seed
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Points(Dataset):
    """Points in 8 dimensions, each labelled with one of two rings and with a side of a wave."""

    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 8, generator=generator)
        noise = torch.randn(count, generator=generator)
        self.ring = (self.x[:, :4].norm(dim=1) > 1.9).long()
        self.side = (torch.sin(2 * self.x[:, 0]) + 0.5 * noise > self.x[:, 1]).long()

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], {"ring": self.ring[index], "side": self.side[index]}


class Encoder(nn.Module):
    """The encoder that both tasks share."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU()),
            *(nn.Linear(24, 24), nn.BatchNorm1d(24), nn.ReLU()),
            nn.Linear(24, 16),
        )

    def forward(self, x):
        return self.layers(x)


LibMTL_args.add_argument("--epochs", default=8, type=int)
LibMTL_args.add_argument("--bs", default=64, type=int)
params = LibMTL_args.parse_args()
set_device(params.gpu_id)
set_random_seed(params.seed)

kwargs, optim_param, scheduler_param = prepare_args(params)
methods = {"weighting": params.weighting, "architecture": params.arch}
if "save_path" in inspect.signature(Trainer.__init__).parameters:  # main
    kwargs |= {"save_path": params.save_path, "load_path": params.load_path}
else:  # the release takes classes
    methods = {
        "weighting": vars(LibMTL.weighting)[params.weighting],
        "architecture": vars(LibMTL.architecture)[params.arch],
    }
trainer = Trainer(
    task_dict={
        task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
        for task in ("ring", "side")
    },
    encoder_class=Encoder,
    decoders=nn.ModuleDict({task: nn.Linear(16, 2) for task in ("ring", "side")}),
    rep_grad=params.rep_grad,
    multi_input=params.multi_input,
    optim_param=optim_param,
    scheduler_param=scheduler_param,
    **methods,
    **kwargs,
)
trainer.train(
    DataLoader(Points(1024, 1), params.bs, shuffle=True),
    DataLoader(Points(512, 3), 256),
    params.epochs,
    val_dataloaders=DataLoader(Points(512, 2), 256),
)
