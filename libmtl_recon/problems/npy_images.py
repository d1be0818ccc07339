"""Images with their label maps, read from the .npy folders of MTAN's authors."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from libmtl_recon.errors import ReconError
from libmtl_recon.problems.augmentation import augmented
from libmtl_recon.problems.data_folder import data_root, looked_through
from libmtl_recon.problems.dense.flags import divided
from libmtl_recon.problems.dense.valid import VOID
from libmtl_recon.problems.image_files import ImageFiles, ImageLoader, Sample
from libmtl_recon.problems.npy_layout import Files, Layout, check_shape, find_files

_LARGEST = 10  # in an image


class NpyImages(ImageFiles):
    """A part of a data set in MTAN's layout.

    Args:
        files: Where it lies.
        numbers: The images used, by their numbers.
        augment: Whether each image is scaled, cropped and mirrored at random.
    """

    def __init__(self, files: Files, numbers: Sequence[int], *, augment: bool = False) -> None:
        self.files, self.numbers, self.augment = files, list(numbers), augment

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Sample:
        """Return an image and its labels.

        Returns:
            The image, float32 ``[3, h, w]``, and of the tasks that the data set has:
            ``segmentation``, int64 ``[H, W]``, where void pixels are -1; ``depth``, float32
            ``[1, H, W]``, 0 or NaN where it is missing; ``normal``, float32 ``[3, H, W]``, as well.

        Raises:
            ReconError: A file is damaged, or has values that it cannot have.
        """
        found = {kind: self._read(kind, self.numbers[index]) for kind in self.files.folders}
        image = found.pop("image")
        if self.augment:
            image, found = augmented(image, found)
        found["segmentation"] = found["segmentation"][0].long()
        return image, found

    def _read(self, kind: str, number: int) -> Tensor:
        """Return an array as float32 ``[C, H, W]``; void pixels of classes are -1."""
        path = self.files.folders[kind] / f"{number}.npy"
        values = np.array(check_shape(path, kind, self.files.shapes[kind]), dtype=np.float32)
        if kind == "segmentation":
            values = self._classes(values)
            wrong = values[
                (values % 1 != 0) | (values < -1) | (values >= self.files.layout.classes)
            ]
            rule = (
                f"whole numbers from 0 to {self.files.layout.classes - 1}, or -1 or 255 for void "
                "pixels"
            )
        else:
            # Resized images may go a little beyond; those from 0 to 255 go far.
            usual = np.abs(values) <= _LARGEST
            wrong = values[~usual] if kind == "image" else values[:0]
            rule = "numbers from 0 to 1"
        if wrong.size:
            raise ReconError(
                f"{path} must have {rule}, but has {wrong[0]:g}. It is damaged, or of another "
                f"kind. {self.files.layout.way_out}"
            )
        if values.ndim == 2:
            values = values[:, :, None]
        return torch.from_numpy(values).permute(2, 0, 1)

    @staticmethod
    def _classes(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(np.isin(values, VOID) | np.isnan(values), np.float32(-1), values)


def make_loaders(params: argparse.Namespace, layout: Layout) -> dict[str, DataLoader[Any]]:
    """Return the loaders of the training and test part, and of the validation part, if any.

    Prints the numbers of images if they are not those of the whole data set.

    Args:
        params: ``bs``, ``augment``, ``val_size``, ``data_seed``, ``workers``; see
            :func:`~libmtl_recon.problems.dense.flags.add_flags`.
        layout: The data set's.

    Raises:
        ReconError: The data set is missing or not whole.
    """
    folder = data_root() / layout.subfolder
    with looked_through(folder):
        files = find_files(folder, layout)
    count, tests = files["train"].count, files["test"].count
    if (count, tests) != layout.images:
        whole = " and ".join(map(str, layout.images))
        print(f"{folder} has {count} training and {tests} test images ({layout.name} has {whole}).")
    rest, held_out = divided(params, count)
    parts = {
        "train": NpyImages(files["train"], rest, augment=params.augment),
        "test": NpyImages(files["test"], range(tests)),
    }
    if held_out:
        parts["val"] = NpyImages(files["train"], held_out)
    return {
        name: ImageLoader(part, params.bs, train=name == "train", workers=params.workers)
        for name, part in parts.items()
    }
