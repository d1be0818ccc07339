"""A small data set in PASCAL_MT's format: a person, a car, or both, on the floor below the sky.

Each class and each part of a person has a colour of its own, so that a network can learn all tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import io

Box = tuple[int, int, int, int]  # top, bottom, left, right, in pixels

SIZES = ((188, 250), (166, 250), (250, 188))  # half of what is frequent in the real data set
SPLITS = {"train": 1, "val": 2}
# In the label maps of PASCAL-Context, and in the 21 classes.
SKY, FLOOR, PERSON, CAR = 360, 158, 284, 59
CLASSES = {SKY: 0, FLOOR: 0, PERSON: 15, CAR: 7}
COLOURS = {SKY: (120, 170, 240), FLOOR: (130, 110, 90), CAR: (200, 30, 30)}
# x to the right, y up, z to the viewer; the sky has none.
DIRECTIONS = {SKY: (0, 0, 0), FLOOR: (0, 0.8, 0.6), PERSON: (0, 0, 1), CAR: (0.6, 0, 0.8)}
# By the share of a person's box: top, bottom, left, right.
PARTS = {
    "head": (0.0, 0.2, 0.3, 0.7),
    "torso": (0.2, 0.55, 0.25, 0.75),
    "luarm": (0.2, 0.38, 0.0, 0.25),
    "ruarm": (0.2, 0.38, 0.75, 1.0),
    "llarm": (0.38, 0.55, 0.0, 0.25),
    "rlarm": (0.38, 0.55, 0.75, 1.0),
    "luleg": (0.55, 0.78, 0.25, 0.5),
    "ruleg": (0.55, 0.78, 0.5, 0.75),
    "llleg": (0.78, 1.0, 0.25, 0.5),
    "rlleg": (0.78, 1.0, 0.5, 0.75),
}
SKIN = {"head": (240, 200, 160), "torso": (40, 160, 60), "uarm": (230, 220, 60)} | {
    "larm": (240, 140, 40),
    "uleg": (60, 60, 160),
    "lleg": (150, 60, 170),
}
# In the classes, the border of an object is void in the images of VOC12, as it is there.
BORDER = 2
_MAT_TEXT = 116  # bytes


def write(folder: Path, images: int, seed: int) -> None:
    """Write the images and the files of the five tasks.

    Every third image has no person; one in two has its classes in ``semseg/VOC12``, the others in
    ``semseg/pascal-context``.

    Args:
        folder: Where to; it is made.
        images: Of each of the two parts.
        seed: Decides places and noise.
    """
    rng = np.random.default_rng(seed)
    for split, year in SPLITS.items():
        names = [f"200{year}_{number:06}" for number in range(1, images + 1)]
        for number, name in enumerate(names):
            _write_scene(folder, name, number, rng)
        _made(folder / "ImageSets/Context" / f"{split}.txt").write_text("\n".join(names) + "\n")


def _write_scene(folder: Path, name: str, number: int, rng: np.random.Generator) -> None:
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    classes = np.full((height, width), SKY, dtype=np.uint16)
    classes[int(height * rng.uniform(0.5, 0.7)) :] = FLOOR
    objects: list[tuple[int, Box]] = []
    if number % 3 != 1:
        objects.append((CAR, _box(rng, height, width, (0.2, 0.45), (0.55, 0.95))))
    if number % 3 != 2:
        objects.append((PERSON, _box(rng, height, width, (0.55, 0.95), (0.05, 0.5))))
    parts: dict[str, NDArray[np.bool_]] = {}
    for kind, box in objects:
        mask = _filled(box, classes.shape)
        if kind == PERSON:
            parts = _body(box, classes.shape)
            mask = np.any(list(parts.values()), axis=0)
        classes[mask] = kind
    colours = np.zeros((height, width, 3))
    for kind, colour in COLOURS.items():
        colours[classes == kind] = colour
    for part, mask in parts.items():
        colours[mask] = SKIN[part if part in SKIN else part[1:]]
    pixels = np.clip(colours + rng.normal(0, 8, colours.shape), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(_made(folder / "JPEGImages" / f"{name}.jpg"), quality=95)
    _write_labels(folder, name, classes, parts, voc=number % 2 == 0)


def _write_labels(
    folder: Path,
    name: str,
    classes: NDArray[np.uint16],
    parts: dict[str, NDArray[np.bool_]],
    *,
    voc: bool,
) -> None:
    _save_mat(folder / "pascal-context/trainval" / f"{name}.mat", {"LabelMap": classes})
    semseg = np.vectorize(CLASSES.__getitem__)(classes).astype(np.uint8)
    if voc:
        semseg[_borders(semseg)] = 255
    kind = "VOC12" if voc else "pascal-context"
    png = Image.fromarray(semseg)
    png.putpalette(np.random.default_rng(0).integers(256, size=768, dtype=np.uint8).tobytes())
    png.save(_made(folder / "semseg" / kind / f"{name}.png"))
    salient = np.where(np.isin(classes, (PERSON, CAR)), 230, 20).astype(np.uint8)
    Image.fromarray(salient).save(_made(folder / "sal_distill" / f"{name}.png"))
    normals = np.zeros((*classes.shape, 3))
    for kind_of, direction in DIRECTIONS.items():
        normals[classes == kind_of] = direction
    coded = np.round((normals + 1) / 2 * 255).astype(np.uint8)
    Image.fromarray(coded).save(_made(folder / "normals_distill" / f"{name}.png"))
    anno = annotation(name, classes, parts)
    _save_mat(folder / "human_parts" / f"{name}.mat", {"anno": anno})


def annotation(
    name: str, classes: NDArray[np.uint16], parts: dict[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    """Return the objects of an image as PASCAL-Part has them, for ``scipy.io.savemat``."""
    found = []
    if (classes == CAR).any():
        found.append(("car", CLASSES[CAR], (classes == CAR).astype(np.uint8), np.zeros((0, 0))))
    if parts:
        named = [(part, mask.astype(np.uint8)) for part, mask in parts.items()]
        pieces = _records(("part_name", "mask"), named)
        person = (classes == PERSON).astype(np.uint8)
        found.append(("person", CLASSES[PERSON], person, pieces))
    return {
        "imname": name,
        "objects": _records(("class", "class_ind", "mask", "parts"), found),
    }


def _records(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> NDArray[Any]:
    """Return MATLAB's array ``1×n`` of structures."""
    made = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for place, row in enumerate(rows):
        made[0, place] = row
    return made


def _box(
    rng: np.random.Generator,
    height: int,
    width: int,
    tall: tuple[float, float],
    across: tuple[float, float],
) -> Box:
    """Return a box of a random height, on the ground, within these shares of the image's width."""
    bottom = int(height * rng.uniform(0.85, 1.0))
    top = max(0, bottom - int(height * rng.uniform(*tall)))
    left = int(width * rng.uniform(across[0], across[0] + 0.1))
    right = int(width * rng.uniform(across[1] - 0.1, across[1]))
    return top, bottom, left, right


def _filled(box: Box, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


def _body(box: Box, shape: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
    """Return the mask of each part of a person."""
    top, bottom, left, right = box
    tall, across = bottom - top, right - left
    return {
        part: _filled(
            (
                top + round(at[0] * tall),
                top + round(at[1] * tall),
                left + round(at[2] * across),
                left + round(at[3] * across),
            ),
            shape,
        )
        for part, at in PARTS.items()
    }


def _borders(classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return where another class is within ``BORDER`` pixels in a row or a column."""
    border = np.zeros(classes.shape, dtype=bool)
    for step in range(1, BORDER + 1):
        rows, columns = classes[step:] != classes[:-step], classes[:, step:] != classes[:, :-step]
        border[step:] |= rows
        border[:-step] |= rows
        border[:, step:] |= columns
        border[:, :-step] |= columns
    return border


def _save_mat(path: Path, variables: dict[str, Any]) -> None:
    io.savemat(_made(path), variables, do_compression=True)
    # The text at the beginning has the time, by which no two files would be the same.
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(_MAT_TEXT) + path.read_bytes()[_MAT_TEXT:])


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
