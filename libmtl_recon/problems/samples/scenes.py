"""Scenes of coloured boxes in front of nothing, with their classes, depths and normals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scene(random: np.random.Generator, size: tuple[int, int], classes: int) -> dict[str, Array]:
    """Draw flat boxes: each class has a colour, and distant boxes are dark.

    Where there is no box a pixel has no label: its class is -1, its depth 0, its normal (0, 0, 0).

    Returns:
        ``image`` ``[H, W, 3]`` from 0 to 1, ``label`` ``[H, W]``, ``depth`` ``[H, W, 1]`` from 1 to
        10, and ``normal`` ``[H, W, 3]``.
    """
    height, width = size
    palette = np.random.default_rng(1).random((classes, 3))
    label = np.full(size, -1.0)
    depth = np.zeros((*size, 1))
    normal = np.zeros((*size, 3))
    image = random.normal(0.5, 0.05, (*size, 3))
    # From the back to the front, so that the nearer hides the farther.
    for distance in np.sort(random.uniform(1, 10, 12))[::-1]:
        top, left = random.integers(height * 2 // 3), random.integers(width * 2 // 3)
        box = np.s_[top : top + height // 3, left : left + width // 3]
        kind = int(random.integers(classes))
        facing = random.normal((0, 0, 2))
        label[box], depth[box] = kind, distance
        normal[box] = facing / np.linalg.norm(facing)
        image[box] = palette[kind] / np.sqrt(distance) + normal[box] * 0.1
    image += random.normal(0, 0.02, image.shape)
    return {"image": image.clip(0, 1), "label": label, "depth": depth, "normal": normal}


def holes(random: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where a sensor measured nothing, bool ``[H, W]``: some patches of the image."""
    height, width = size
    found = np.zeros(size, dtype=bool)
    for _ in range(8):
        top, left = random.integers(height * 7 // 8), random.integers(width * 7 // 8)
        found[top : top + height // 12, left : left + width // 12] = True
    return found


def shrunk(image: Array, scale: float) -> Array:
    """Return every so many rows and columns of ``[H, W, C]``."""
    height, width = image.shape[:2]
    rows = np.linspace(0, height - 1, round(height * scale)).astype(int)
    columns = np.linspace(0, width - 1, round(width * scale)).astype(int)
    found: Array = image[np.ix_(rows, columns)]
    return found


def save(arrays: Mapping[str, Array], folder: Path, index: int) -> None:
    """Write one image's arrays, by the names of their folders, as float32: ``KIND/INDEX.npy``."""
    for kind, array in arrays.items():
        target = folder / kind / f"{index}.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, array.astype(np.float32))
