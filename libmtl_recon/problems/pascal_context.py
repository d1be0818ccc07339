"""What is where in a photo: classes, parts of people, salient things, surface normals, edges.

PASCAL-Context with the tasks and labels of Maninis et al. (2019), as in the Recon paper (Appendix
B.4, Table 4), which follows BMTAS (Bruggemann et al., 2020). By default there are the four tasks of
Table 4; ``--tasks`` chooses among all five.

- ``semseg``: 21 classes, cross-entropy; mean intersection over union (mIoU), pixel accuracy
- ``human_parts``: six parts and background, cross-entropy; mIoU, pixel accuracy. An image without
  people has no such label, and is left out of this task
- ``sal``: salient or not, balanced binary cross-entropy; mIoU at the best threshold
- ``normals``: L1 distance of unit vectors; the angle's mean and median, and shares within 11.25,
  22.5 and 30 degrees
- ``edge``: binary cross-entropy in which edges weigh 0.95; F-measure at the best threshold, of
  pixels without any tolerance, which is not the papers' odsF. It needs scikit-image

The files are read from the folder pascal_context in LIBMTL_RECON_DATA (without that variable, in
the user's cache folder), which has the contents of the archive PASCAL_MT:
https://data.vision.ee.ethz.ch/kmaninis/share/MTL/PASCAL_MT.tgz.

Images are at most 500 pixels long, and are padded to 512×512 with pixels that are void, so that
they are tested in their own size; with a smaller ``--size`` they are shrunk, and tested shrunk.
Training scales, crops and mirrors them at random, as BMTAS does. The data set has no test part: as
in the papers, its validation part is the test part here, and ``--val_size`` holds out training
images for validation.

The defaults are the paper's: Adam, a learning rate of 1e-4, divided by 10 at epoch 70 of 130, and
batches of 6; it names no weight decay. LibMTL has no schedule with unequal steps, so the paper's
second decay, at epoch 100, is left out. The paper starts from ImageNet's weights, and needs a GPU:

    python -m libmtl_recon.problems.pascal_context --weighting EW --pretrained --workers 8

A trial on a CPU, of some minutes per epoch:

    python -m libmtl_recon.problems.pascal_context --weighting EW --epochs 3 --size 64 --width 0.25
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # makes LibMTL know GradOPS and Recon

# isort: split
import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from LibMTL.config import LibMTL_args
from LibMTL.loss import AbsLoss
from LibMTL.utils import set_device, set_random_seed
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from libmtl_recon.errors import UsageError
from libmtl_recon.problems.argument_types import whole
from libmtl_recon.problems.common import from_flags, train_or_test
from libmtl_recon.problems.data_folder import data_root, looked_through
from libmtl_recon.problems.dense.binary import BalancedLoss, EdgeMetric, SaliencyMetric
from libmtl_recon.problems.dense.flags import add_flags, divided
from libmtl_recon.problems.dense.tasks import normal, segmentation
from libmtl_recon.problems.dense.trainer import DenseTrainer
from libmtl_recon.problems.dense.valid import mean_over, measured
from libmtl_recon.problems.image_files import ImageLoader
from libmtl_recon.problems.network_flags import chosen_network
from libmtl_recon.problems.pascal_context_data import SUBFOLDER, TASKS, Scenes, load
from libmtl_recon.problems.pascal_context_views import PaddedView, RandomView

OUTPUTS = {"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}
IGNORE = (255,)


def parse_args() -> argparse.Namespace:
    """Read the command line: LibMTL's flags and this problem's own."""
    own = LibMTL_args.add_argument_group("pascal_context")
    add_flags(own, network="mobilenetv2_raspp", epochs=130, bs=6)
    own.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=list(TASKS[:4]), help="tasks to train"
    )
    own.add_argument(
        "--size",
        type=whole(32, 4096),
        default=512,
        help="height and width of the images, in pixels",
    )
    LibMTL_args.set_defaults(
        optim="adam", lr=1e-4, weight_decay=0.0, scheduler="step", step_size=70, gamma=0.1
    )
    params: argparse.Namespace = LibMTL_args.parse_args()
    for task in params.tasks:
        if params.tasks.count(task) > 1:
            raise UsageError("--tasks", "must name each task once", task, "Remove one.")
    params.tasks = [task for task in TASKS if task in params.tasks]
    return params


def make_loaders(params: argparse.Namespace) -> dict[str, DataLoader[Any]]:
    """Return the loaders of the training and test part, and of the validation part, if any.

    Raises:
        ReconError: The data set's files are missing or damaged.
    """
    folder = data_root() / SUBFOLDER
    with looked_through(folder):
        names = load(folder, params.tasks)
    rest, held_out = divided(params, len(names["train"]))
    parts = {"train": [names["train"][at] for at in rest], "test": names["test"]}
    if held_out:
        parts["val"] = [names["train"][at] for at in held_out]
    whole_images = PaddedView(params.size)
    views = {"train": RandomView(params.size)} if params.augment else {}
    return {
        part: ImageLoader(
            Scenes(folder, own, params.tasks, views.get(part, whole_images)),
            params.bs,
            train=part == "train",
            workers=params.workers,
        )
        for part, own in parts.items()
    }


class DistanceLoss(AbsLoss):  # type: ignore[misc]  # LibMTL is untyped
    """The L1 distance between a prediction, scaled to length 1, and a normal."""

    def compute_loss(self, pred: Tensor, gt: Tensor) -> Tensor:
        """Compute the mean over the pixels of ``[B, 3, H, W]`` that have a normal."""
        valid = measured(gt)
        unit = functional.normalize(pred, dim=1)
        return mean_over((unit - torch.where(valid, gt, 0)).abs().sum(1), valid.squeeze(1))


def task_dict(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return LibMTL's description of these tasks."""
    described = {
        "semseg": segmentation(OUTPUTS["semseg"], IGNORE),
        "human_parts": segmentation(OUTPUTS["human_parts"], IGNORE),
        "sal": {
            "metrics": ["mIoU"],
            "metrics_fn": SaliencyMetric(),
            "loss_fn": BalancedLoss(),
            "weight": [1],
        },
        "normals": normal() | {"loss_fn": DistanceLoss()},
        "edge": {
            "metrics": ["maxF"],
            "metrics_fn": EdgeMetric(),
            "loss_fn": BalancedLoss(0.95),
            "weight": [1],
        },
    }
    return {task: described[task] for task in tasks}


def train(params: argparse.Namespace, loaders: Mapping[str, DataLoader[Any]]) -> None:
    """Build LibMTL's Trainer and train."""
    network = chosen_network(params, {task: OUTPUTS[task] for task in params.tasks})
    trainer = DenseTrainer(
        task_dict=task_dict(params.tasks),
        encoder_class=network.encoder_class,
        decoders=network.decoders,
        **from_flags(params),
    )
    train_or_test(trainer, params, loaders)


def main(params: argparse.Namespace) -> None:
    """Read the data and train."""
    train(params, make_loaders(params))


if __name__ == "__main__":
    arguments = parse_args()
    set_device(arguments.gpu_id)
    set_random_seed(arguments.seed)
    main(arguments)
