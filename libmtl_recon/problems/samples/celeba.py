"""A small data set in CelebA's format, of which a network can learn all 40 attributes.

Each quarter of an image is bright or dark in red, green and blue: twelve properties, each of which
three or four attributes follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from libmtl_recon.problems.celeba_data import ATTRIBUTES, IMAGES, LABELS, PARTITION, PARTS

HEIGHT, WIDTH = 218, 178  # of all of CelebA's aligned images
FACTORS = (2, 2, 3)  # rows, columns, colours
IDENTITY, BOXES, LANDMARKS = (
    "identity_CelebA.txt",
    "list_bbox_celeba.txt",
    "list_landmarks_align_celeba.txt",
)
# Where they are in most of the aligned images.
POINTS = {"lefteye": (69, 111), "righteye": (108, 111), "nose": (88, 135)} | {
    "leftmouth": (72, 152),
    "rightmouth": (105, 152),
}


def write(folder: Path, images: int, seed: int) -> None:
    """Write the images and text files, as torchvision unpacks them.

    Args:
        folder: Where to; it is made.
        images: Of each of the three parts.
        seed: Decides the labels and the noise.
    """
    rng = np.random.default_rng(seed)
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    parts = [part for part in PARTS for _ in range(images)]
    factors = rng.random((len(parts), *FACTORS)) < 0.5
    labels = factors.reshape(len(parts), -1)[:, np.arange(len(ATTRIBUTES)) % math.prod(FACTORS)]
    names = [f"{number:06}.jpg" for number in range(1, len(parts) + 1)]
    for name, bright in zip(names, factors, strict=True):
        Image.fromarray(draw(bright, rng)).save(folder / IMAGES / name, quality=95)
    boxes = [[95, 71, 226, 313]] * len(names)  # in the original images, which are larger
    points = [[place for point in POINTS.values() for place in point]] * len(names)
    marks = [f"{point}_{axis}" for point in POINTS for axis in "xy"]
    signs = np.where(labels, " 1", "-1").tolist()
    _write_table(folder / LABELS, names, signs, ATTRIBUTES)
    _write_table(folder / BOXES, names, boxes, ("image_id", "x_1", "y_1", "width", "height"))
    _write_table(folder / LANDMARKS, names, points, marks)
    _write_table(folder / PARTITION, names, [[part] for part in parts])
    _write_table(folder / IDENTITY, names, [[number] for number in range(1, len(names) + 1)])


def draw(bright: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return an image ``[218, 178, 3]``; ``bright`` has its quarters' colours, ``[2, 2, 3]``."""
    rows, columns = (np.arange(size) * 2 // size for size in (HEIGHT, WIDTH))
    image = np.where(bright, 200.0, 60.0)[rows[:, None], columns]
    return np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8)


def _write_table(
    path: Path, names: Sequence[str], rows: Sequence[Sequence[object]], header: Sequence[str] = ()
) -> None:
    """Write a name and values per line, below their count and the columns' names, if any."""
    lines = [str(len(names)), " ".join(header)] if header else []
    lines += [" ".join(map(str, (name, *row))) for name, row in zip(names, rows, strict=True)]
    path.write_text("\n".join(lines) + "\n", "ascii")
