"""CelebA's public files, as torchvision unpacks them: faces and 40 attributes of each.

Read are ``img_align_celeba/*.jpg``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``. The
files are taken by what they hold: torchvision also wants the MD5 sums of the original text files
and three text files more, of which nothing is needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.problems.data_folder import VARIABLE
from libmtl_recon.problems.image_files import ImageFiles, Sample, normalised, open_image

_NAMES = """
5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young
"""
ATTRIBUTES = tuple(_NAMES.split())
SUBFOLDER = "celeba"
PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
LABELS, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
PARTS = {"0": "train", "1": "val", "2": "test"}
_VALUES = {"1": True, "-1": False}


@dataclass(frozen=True)
class Part:
    """The training, validation or test part.

    Attributes:
        files: The images' names.
        attributes: bool ``[N, 40]``, in the order of ``ATTRIBUTES``.
    """

    files: list[str]
    attributes: Tensor

    def __len__(self) -> int:
        return len(self.files)


class Faces(ImageFiles):
    """Faces, resized to a square as Sener & Koltun do, and the labels of some attributes.

    Args:
        folder: The folder with the images.
        part: What is in this part.
        tasks: The attributes wanted.
        size: Height and width of the images, in pixels.
    """

    def __init__(self, folder: Path, part: Part, tasks: Sequence[str], size: int) -> None:
        self.folder, self.part, self.size = folder, part, size
        self.columns = {task: ATTRIBUTES.index(task) for task in tasks}

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> Sample:
        """Return a face ``[3, size, size]`` and each task's int64 label, 0 or 1.

        Raises:
            ReconError: The image is damaged.
        """
        image = open_image(self.folder / self.part.files[index], "RGB")
        small = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        row = self.part.attributes[index].long()
        return normalised(np.asarray(small)), {task: row[at] for task, at in self.columns.items()}


def load(folder: Path) -> dict[str, Part]:
    """Return what is in the official training, validation and test parts.

    Args:
        folder: The folder with the text files, and with ``img_align_celeba`` in it.

    Raises:
        ReconError: A file is missing or damaged, the two text files disagree, a part is empty, or
            images are missing.
    """
    wanted = (LABELS, PARTITION, IMAGES)
    found = [name for name in wanted if (folder / name).exists()]
    if len(found) < len(wanted):
        missing = ", ".join(name for name in wanted if name not in found)
        there = ", ".join(found) or "none of them"
        raise ReconError(
            f"CelebA is not whole in {folder}: needed are {', '.join(wanted)}; missing: {missing}; "
            f"found: {there}. {_way_out()}"
        )
    labels, parts = read_labels(folder / LABELS), read_partition(folder / PARTITION)
    if labels.keys() != parts.keys():
        alone = min(labels.keys() ^ parts.keys())
        here, there = (LABELS, PARTITION) if alone in labels else (PARTITION, LABELS)
        raise ReconError(
            f"{here} of CelebA in {folder} names {alone}, but {there} does not: the two are not of "
            f"one data set. {_way_out()}"
        )
    images = {path.name for path in (folder / IMAGES).iterdir()}
    absent = [file for file in parts if file not in images]
    if absent:
        raise ReconError(
            f"{len(absent)} of the {len(parts)} images of CelebA are not in {folder / IMAGES}, the "
            f"first of them {absent[0]}. Unpack img_align_celeba.zip again, in {folder}."
        )
    return {part: _part(part, labels, parts, folder) for part in PARTS.values()}


def _part(
    part: str, labels: dict[str, NDArray[np.bool_]], parts: dict[str, str], folder: Path
) -> Part:
    files = [file for file, own in parts.items() if own == part]
    if not files:
        raise ReconError(f"No image is in the {part} part by {folder / PARTITION}. {_way_out()}")
    return Part(files, torch.from_numpy(np.stack([labels[file] for file in files])))


def read_labels(path: Path) -> dict[str, NDArray[np.bool_]]:
    """Return each image's attributes, ``[40]``, in the order of ``ATTRIBUTES``.

    Args:
        path: A file whose first line is the number of images, and the second the attributes' names.

    Raises:
        ReconError: It is damaged.
    """
    lines = _lines(path)
    names = lines[1].split() if len(lines) > 1 else []
    if sorted(names) != sorted(ATTRIBUTES):
        raise ReconError(
            f"{path}, line 2, must name the 40 attributes, from {ATTRIBUTES[0]} to "
            f"{ATTRIBUTES[-1]}. {_way_out()}"
        )
    if lines[0].strip() != str(len(lines) - 2):
        raise ReconError(
            f"{path} must have as many images as its first line says ({lines[0].strip()}), but has "
            f"{len(lines) - 2}. {_way_out()}"
        )
    order = [names.index(name) for name in ATTRIBUTES]
    labels = {}
    for number, line in enumerate(lines[2:], 3):
        file, *values = line.split()
        if len(values) != len(order) or not _VALUES.keys() >= set(values):
            raise ReconError(
                f"{path}, line {number}, must have a file's name and 40 values, each 1 or -1. "
                f"{_way_out()}"
            )
        if file in labels:
            raise ReconError(f"{path}, line {number}, names {file} again. {_way_out()}")
        labels[file] = np.array([_VALUES[values[place]] for place in order])
    return labels


def read_partition(path: Path) -> dict[str, str]:
    """Return the part of each image, ``"train"``, ``"val"`` or ``"test"``.

    Args:
        path: A file with an image's name and 0, 1 or 2 per line.

    Raises:
        ReconError: It is damaged.
    """
    parts = {}
    for number, line in enumerate(_lines(path), 1):
        file, _, part = line.strip().partition(" ")
        if part.strip() not in PARTS:
            raise ReconError(
                f"{path}, line {number}, must have a file's name, and 0 for training, 1 for "
                f"validation or 2 for test. {_way_out()}"
            )
        if file in parts:
            raise ReconError(f"{path}, line {number}, names {file} again. {_way_out()}")
        parts[file] = PARTS[part.strip()]
    return parts


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ReconError(f"{path} cannot be read ({error}). {_way_out()}") from error
    return [line for line in text.splitlines() if line.strip()]


def _way_out() -> str:
    return (
        f"Download {LABELS}, {PARTITION} and img_align_celeba.zip from {PAGE}, put them into a "
        f"folder {SUBFOLDER} inside the folder that the environment variable {VARIABLE} names, and "
        f"unpack the archive there, so that {SUBFOLDER}/{IMAGES} holds the images. To try the "
        f"problem without them, run `libmtl-recon sample {SUBFOLDER} DIR`."
    )
