"""40 attributes of a face, one task each: is it smiling, has it a beard, is it young.

CelebA as in the Recon paper (Appendix B.5), which follows Sener & Koltun (2018): images of 64×64
pixels, a ResNet18 whose features are those of 2×2 parts of the image, and a linear layer of two
classes per attribute. Each task is measured by its error in percent, whose mean over the tasks is
the paper's "average error" (Table 2); it is printed after each pass over the data. The training,
validation and test parts are the data set's own.

The images and labels are read from the folder celeba in LIBMTL_RECON_DATA (without that variable,
in the user's cache folder) as torchvision unpacks them: img_align_celeba/*.jpg,
list_attr_celeba.txt and list_eval_partition.txt. They come from
https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html.

The defaults are the paper's: Adam, a learning rate of 5e-5 that is halved after the third of five
epochs. It names no batch size and no weight decay: 256 is Sener & Koltun's, and there is none. The
paper starts from ImageNet's weights, which takes a GPU:

    python -m libmtl_recon.problems.celeba --weighting EW --pretrained --workers 8

A trial on a CPU, on five of the attributes:

    python -m libmtl_recon.problems.celeba --weighting EW --tasks 5 --width 0.25 --bs 64 --lr 1e-3
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # makes LibMTL know GradOPS and Recon

# isort: split
import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from LibMTL import Trainer
from LibMTL.config import LibMTL_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AbsMetric
from LibMTL.utils import set_device, set_random_seed
from torch import Tensor
from torch.utils.data import DataLoader

from libmtl_recon import Measurement, TrainerHook
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.problems.argument_types import whole
from libmtl_recon.problems.celeba_data import ATTRIBUTES, IMAGES, PARTITION, SUBFOLDER, Faces, load
from libmtl_recon.problems.common import from_flags, train_or_test
from libmtl_recon.problems.data_folder import data_root, looked_through
from libmtl_recon.problems.image_files import ImageLoader
from libmtl_recon.problems.network_flags import add_network_flags, chosen_network
from libmtl_recon.texts import did_you_mean


def parse_args() -> argparse.Namespace:
    """Read the command line: LibMTL's flags and this problem's own."""
    own = LibMTL_args.add_argument_group("celeba")
    add_network_flags(own, ["resnet18"], network="resnet18", epochs=5, bs=256, narrow=0.25)
    own.add_argument(
        "--tasks",
        nargs="+",
        default=[str(len(ATTRIBUTES))],
        metavar="N|NAME",
        help="attributes to train on: their names, or how many of the 40 from the first on",
    )
    own.add_argument(
        "--size", type=whole(32, 4096), default=64, help="height and width of the images, in pixels"
    )
    LibMTL_args.set_defaults(
        optim="adam", lr=5e-5, weight_decay=0.0, scheduler="step", step_size=3, gamma=0.5
    )
    params: argparse.Namespace = LibMTL_args.parse_args()
    params.tasks = chosen_tasks(params.tasks)
    return params


def chosen_tasks(given: Sequence[str]) -> list[str]:
    """Return the attributes that ``--tasks`` means, in the order in which they were given.

    Raises:
        UsageError: A name is not an attribute's or stands twice, or the number is not from 1 to 40.
    """
    way_out = f"Give a number from 1 to {len(ATTRIBUTES)}, or names, such as Smiling Young."
    if len(given) == 1 and given[0].strip().lstrip("+-").isdecimal():
        if not 1 <= int(given[0]) <= len(ATTRIBUTES):
            rule = f"must be a whole number from 1 to {len(ATTRIBUTES)}, or names of attributes"
            raise UsageError("--tasks", rule, given[0], way_out)
        return list(ATTRIBUTES[: int(given[0])])
    for name in given:
        if name not in ATTRIBUTES:
            hint = did_you_mean(name, ATTRIBUTES) + way_out
            raise UsageError("--tasks", "must be attributes of CelebA", name, hint)
        if given.count(name) > 1:
            raise UsageError("--tasks", "must name each attribute once", name, "Remove one.")
    return list(given)


def make_loaders(params: argparse.Namespace) -> dict[str, DataLoader[Any]]:
    """Return the loaders of the training, validation and test part.

    Raises:
        ReconError: The data set's files are missing or damaged, or one image is to train on.
    """
    folder = data_root() / SUBFOLDER
    with looked_through(folder):
        parts = load(folder)
    if len(parts["train"]) < 2:
        raise ReconError(
            f"One image is in the train part by {folder / PARTITION}, but batch norms need two. "
            "Add images to it."
        )
    return {
        name: ImageLoader(
            Faces(folder / IMAGES, part, params.tasks, params.size),
            params.bs,
            train=name == "train",
            workers=params.workers,
        )
        for name, part in parts.items()
    }


class ErrorMetric(AbsMetric):  # type: ignore[misc]  # LibMTL is untyped
    """The share of images whose likelier class is the wrong one, in percent."""

    def update_fun(self, pred: Tensor, gt: Tensor) -> None:
        """Count the errors of a batch: logits ``[B, 2]`` and int64 labels ``[B]``."""
        self.record.append(int((pred.argmax(dim=1) != gt).sum()))
        self.bs.append(len(gt))

    def score_fun(self) -> list[float]:
        """Return the error of one pass over the data, from 0 to 100; NaN where there were none."""
        return [100 * sum(self.record) / sum(self.bs) if sum(self.bs) else float("nan")]


class AverageError(TrainerHook):
    """Prints what Table 2 of the Recon paper has: the mean of the tasks' errors."""

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Print the mean after a pass over the data."""
        errors = [metrics["Err"] for metrics in measurement.metrics.values()]
        mean = sum(errors) / len(errors)
        print(f"Average error ({measurement.mode}, {len(errors)} tasks): {mean:.2f} %")


def task_dict(tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return LibMTL's description of the tasks: binary cross-entropy, of two logits."""
    return {
        task: {
            "metrics": ["Err"],
            "metrics_fn": ErrorMetric(),
            "loss_fn": CELoss(),
            "weight": [0],  # the lower the better
        }
        for task in tasks
    }


def train(params: argparse.Namespace, loaders: Mapping[str, DataLoader[Any]]) -> None:
    """Build LibMTL's Trainer and train."""
    network = chosen_network(params, dict.fromkeys(params.tasks, 2))
    with trainer_hooks(AverageError()):
        trainer = Trainer(
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
