"""A LibMTL script as its users write them, for two or three tasks.

It knows nothing of libmtl_recon.
"""

import LibMTL.architecture as architecture_method
import LibMTL.weighting as weighting_method
import torch
import torch.nn as nn
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.utils import set_device, set_random_seed
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    def __init__(self, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(count, 6, generator=generator)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        x = self.x[index]
        sign, size = x[0] > 0, x[:2].abs().sum() > 1.5
        return x, {"sign": sign.long(), "size": size.long(), "order": (x[2] > x[3]).long()}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 12)
        self.norm = nn.BatchNorm1d(12)
        self.two = nn.Linear(12, 8)

    def forward(self, x):
        return torch.relu(self.two(torch.relu(self.norm(self.one(x)))))


def main(params):
    kwargs, optim_param, scheduler_param = prepare_args(params)
    task_dict = {
        task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
        for task in ["sign", "size", "order"][: params.tasks]
    }
    decoders = nn.ModuleDict({task: nn.Linear(8, 2) for task in task_dict})
    trainer = Trainer(
        task_dict=task_dict,
        weighting=weighting_method.__dict__[params.weighting],
        architecture=architecture_method.__dict__[params.arch],
        encoder_class=Encoder,
        decoders=decoders,
        rep_grad=params.rep_grad,
        multi_input=params.multi_input,
        optim_param=optim_param,
        scheduler_param=scheduler_param,
        **kwargs,
    )
    train = DataLoader(Numbers(256, 0), batch_size=32, shuffle=True)
    test = DataLoader(Numbers(128, 1), batch_size=64)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train(train, test, params.epochs)
    if params.dump:
        losses = torch.from_numpy(trainer.model.train_loss_buffer)
        after = trainer.model.state_dict()
        torch.save({"before": before, "after": after, "losses": losses}, params.dump)


if __name__ == "__main__":
    LibMTL_args.add_argument("--epochs", default=2, type=int)
    LibMTL_args.add_argument("--tasks", default=2, type=int)
    LibMTL_args.add_argument("--dump", default=None)
    params = LibMTL_args.parse_args()
    set_device(params.gpu_id)
    set_random_seed(params.seed)
    main(params)
