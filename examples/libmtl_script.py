"""A LibMTL script with one line of this package: two tasks over scikit-learn's handwritten digits.

It runs with LibMTL's PyPI release and with its main branch:

    python examples/libmtl_script.py --weighting GradOPS --gradops_alpha -1
    python examples/libmtl_script.py --weighting EW --arch Recon --recon_select norms --recon_k 2

The second command splits normalisation layers. To split the layers that conflict most, measure
the conflicts first:

    libmtl-recon score examples/libmtl_script.py --weighting EW
    python examples/libmtl_script.py --weighting EW --arch Recon --recon_k 2
"""

import libmtl_recon  # noqa: F401  # before LibMTL: adds GradOPS, RotoGrad, Recon and their flags

# isort: split
import inspect

import LibMTL.architecture
import LibMTL.weighting
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from LibMTL.utils import set_device, set_random_seed
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

CLASSES = {"digit": 10, "odd": 2}


def loaders(batch_size):
    """Return the batches for training, validation and test: images, and one label per task."""
    digits = load_digits()
    samples = [
        (torch.tensor(image, dtype=torch.float32)[None] / 16, {"digit": int(d), "odd": int(d % 2)})
        for image, d in zip(digits.images, digits.target, strict=True)
    ]
    parts = samples[:1200], samples[1200:1500], samples[1500:]
    return [DataLoader(part, batch_size, shuffle=part is parts[0]) for part in parts]


class Encoder(nn.Module):
    """The encoder that both tasks share."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16)
        self.last = nn.Linear(16 * 4 * 4, 32)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(self.norm2(self.conv2(x)))
        return torch.relu(self.last(x.flatten(1)))


LibMTL_args.add_argument("--epochs", default=3, type=int)
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
        for task in CLASSES
    },
    encoder_class=Encoder,
    decoders=nn.ModuleDict({task: nn.Linear(32, count) for task, count in CLASSES.items()}),
    rep_grad=params.rep_grad,
    multi_input=params.multi_input,
    optim_param=optim_param,
    scheduler_param=scheduler_param,
    **methods,
    **kwargs,
)
training, validation, test = loaders(params.bs)
trainer.train(training, test, params.epochs, val_dataloaders=validation)
