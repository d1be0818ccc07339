"""The problem of examples/plain_loop.py as a LibMTL script, in float64.

It knows nothing of libmtl_recon's probe; of the example it takes network and data.
"""

import importlib.util

import LibMTL.architecture as architecture_method
import LibMTL.weighting as weighting_method
import torch
import torch.nn as nn
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.utils import set_device

LibMTL_args.add_argument("--example", required=True)
LibMTL_args.add_argument("--epochs", default=1, type=int)


def load_example(file):
    spec = importlib.util.spec_from_file_location("plain_loop", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Batches:
    def __init__(self, example, part=slice(None)):
        images, labels = example.load_images()
        self.batches = list(example.batches(images, labels))[part]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def main(params):
    kwargs, optim_param, scheduler_param = prepare_args(params)
    torch.set_default_dtype(torch.float64)
    example = load_example(params.example)
    torch.manual_seed(0)
    network = example.Network()

    class Encoder(example.Network):
        def __init__(self):
            super().__init__()
            del self.heads
            own = {k: v for k, v in network.state_dict().items() if not k.startswith("heads")}
            self.load_state_dict(own)

        def forward(self, x):
            return self.features(x)

    # LibMTL's main branch takes names.
    names = hasattr(weighting_method, "MoDo")
    shared = {"metrics": ["Acc"], "weight": [1]}
    trainer = Trainer(
        task_dict={
            task: {**shared, "metrics_fn": AccMetric(), "loss_fn": CELoss()}
            for task in example.TASKS
        },
        weighting=params.weighting if names else weighting_method.__dict__[params.weighting],
        architecture=params.arch if names else architecture_method.__dict__[params.arch],
        encoder_class=Encoder,
        decoders=nn.ModuleDict(dict(network.heads.items())),
        rep_grad=params.rep_grad,
        multi_input=params.multi_input,
        optim_param=optim_param,
        scheduler_param=scheduler_param,
        **kwargs,
    )
    trainer.train(Batches(example), Batches(example, slice(2)), params.epochs)


if __name__ == "__main__":
    params = LibMTL_args.parse_args()
    set_device(params.gpu_id)
    main(params)
