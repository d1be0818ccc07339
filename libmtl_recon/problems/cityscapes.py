"""What is where in a street: 7 classes and the inverse depth of each pixel.

CityScapes as in the Recon paper (Appendix B.2, Table 3), preprocessed by MTAN's authors: 2975
images for training, 500 for the results, of 128×256 pixels. The tasks:

- ``segmentation``: cross-entropy; mean intersection over union (mIoU) and pixel accuracy
- ``depth``: absolute error of the inverse depth (disparity); absolute and relative error

The files are read from the folder cityscapes in LIBMTL_RECON_DATA (without that variable, in the
user's cache folder): {train,val}/{image,label_7,depth}/{0,1,...}.npy, linked at
https://github.com/lorenmt/mtan; the classes may also be in a folder ``label``, as in the archive
that LibMTL's example reads. Pixels without a label are -1 (or 255) in ``label_7``, 0 or NaN in
``depth``; images may be of another size than their labels. As in the papers, ``val`` is the test
part here, all of ``train`` is trained on, and there is no validation part; ``--val_size`` holds out
training images for one, which a search needs.

The defaults are the paper's: SegNet, Adam, a learning rate of 5e-5 that is halved after 100 of 200
epochs, batches of 8, no weight decay, and the random scales, crops and mirror images of its
authors' code. It needs a GPU:

    python -m libmtl_recon.problems.cityscapes --weighting EW --scheduler step --step_size 100 \
        --gamma 0.5 --workers 4

A trial on a CPU, on the files that `libmtl-recon sample cityscapes DIR` writes:

    python -m libmtl_recon.problems.cityscapes --weighting EW --epochs 3 --width 0.125
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # makes LibMTL know GradOPS and Recon

# isort: split
import argparse
from collections.abc import Mapping
from typing import Any

from LibMTL.config import LibMTL_args
from LibMTL.utils import set_device, set_random_seed
from torch.utils.data import DataLoader

from libmtl_recon.problems.common import from_flags, train_or_test
from libmtl_recon.problems.dense.flags import add_flags
from libmtl_recon.problems.dense.tasks import depth, segmentation
from libmtl_recon.problems.dense.trainer import DenseTrainer
from libmtl_recon.problems.network_flags import chosen_network
from libmtl_recon.problems.npy_images import make_loaders
from libmtl_recon.problems.npy_layout import Layout

LAYOUT = Layout(
    name="CityScapes",
    subfolder="cityscapes",
    classes=7,
    images=(2975, 500),
    folders={
        "image": ("image",),
        "segmentation": ("label_7", "label"),
        "depth": ("depth",),
    },
)
OUTPUTS = {"segmentation": LAYOUT.classes, "depth": 1}


def parse_args() -> argparse.Namespace:
    """Read the command line: LibMTL's flags and this problem's own."""
    own = LibMTL_args.add_argument_group("cityscapes")
    add_flags(own, network="segnet", epochs=200, bs=8)
    LibMTL_args.set_defaults(
        optim="adam", lr=5e-5, weight_decay=0.0, scheduler="step", step_size=100, gamma=0.5
    )
    params: argparse.Namespace = LibMTL_args.parse_args()
    return params


def task_dict() -> dict[str, dict[str, Any]]:
    """Return LibMTL's description of the two tasks."""
    return {"segmentation": segmentation(LAYOUT.classes), "depth": depth()}


def train(params: argparse.Namespace, loaders: Mapping[str, DataLoader[Any]]) -> None:
    """Build LibMTL's Trainer and train."""
    network = chosen_network(params, OUTPUTS)
    trainer = DenseTrainer(
        task_dict=task_dict(),
        encoder_class=network.encoder_class,
        decoders=network.decoders,
        **from_flags(params),
    )
    train_or_test(trainer, params, loaders)


def main(params: argparse.Namespace) -> None:
    """Read the data and train."""
    train(params, make_loaders(params, LAYOUT))


if __name__ == "__main__":
    arguments = parse_args()
    set_device(arguments.gpu_id)
    set_random_seed(arguments.seed)
    main(arguments)
