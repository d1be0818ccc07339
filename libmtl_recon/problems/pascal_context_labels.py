"""The files of PASCAL-Context's five tasks, as arrays: PNG and MATLAB files of PASCAL_MT.

What the files mean is what the public loaders of this layout make of them (Maninis et al., 2019).
Each function returns an array of the size of the image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import io, ndimage

from libmtl_recon.errors import MissingPackageError, ReconError
from libmtl_recon.problems.image_files import open_image

CLASSES, VOID = 21, 255  # of semseg
PERSON = 15  # among the objects of human_parts
# The six parts: head, torso, upper and lower arms, upper and lower legs.
_PARTS = {
    1: "hair head lear lebrow leye mouth nose rear rebrow reye",
    2: "neck torso",
    3: "luarm ruarm",
    4: "lhand llarm rhand rlarm",
    5: "luleg ruleg",
    6: "lfoot llleg rfoot rlleg",
}
PARTS = {name: part for part, names in _PARTS.items() for name in names.split()}
# The classes of PASCAL-Context's label maps that NYUv2 has by the same name, but for its `unknown`,
# and tvmonitor. Normals were distilled from a network that was trained on NYUv2, and are taken only
# where one of these classes is; sky, grass and horses, for example, are none of them.
_NORMALS = """
3 4 6 9 10 11 13 15 17 18 22 23 29 30 33 34 36 37 38 39 41 43 46 49 50 51 53 55 56 59 61 62 65 66
68 69 72 73 78 83 84 85 87 88 95 96 101 104 105 107 111 113 115 122 124 135 141 142 143 146 150 154
157 158 159 165 172 174 181 183 184 191 193 195 197 199 202 213 215 216 219 220 223 225 228 230 232
233 238 239 242 243 246 250 251 252 255 260 261 263 269 272 273 275 281 283 284 285 286 287 288 290
291 292 293 295 304 307 309 310 314 315 319 323 329 330 331 336 342 345 349 350 351 352 355 357 368
370 371 374 379 380 383 384 397 401 403 405 407 408 411 412 413 414 417 419 421 423 427 429 430 432
440 441 442 443 444 446 454 457
"""
NORMALS = tuple(map(int, _NORMALS.split()))


def read_classes(path: Path) -> NDArray[np.uint8]:
    """Return a PNG's classes ``[H, W]``, 255 for void.

    Raises:
        ReconError: It is damaged, or has colours or other numbers instead of classes.
    """
    pixels = _flat(path)
    wrong = pixels[(pixels >= CLASSES) & (pixels != VOID)]
    if wrong.size:
        raise ReconError(
            f"{path} must have classes from 0 to {CLASSES - 1}, or {VOID} for void pixels, but has "
            f"{wrong[0]}. Unpack it again."
        )
    return pixels


def read_saliency(path: Path) -> NDArray[np.uint8]:
    """Return 1 where the distilled saliency is above one half, else 0: ``[H, W]``.

    Raises:
        ReconError: The PNG is damaged.
    """
    return (_flat(path) > 255 / 2).astype(np.uint8)


def read_normals(path: Path, label_map: Path) -> NDArray[np.float32]:
    """Return distilled normals ``[H, W, 3]``, zero where the image shows no class of NYUv2's.

    Args:
        path: A PNG whose red, green and blue from 0 to 255 are x, y and z from -1 to 1.
        label_map: The file of the classes that the image shows.

    Raises:
        ReconError: A file is damaged, or the two differ in size.
    """
    pixels = np.asarray(open_image(path, "RGB"), dtype=np.float32)
    normals: NDArray[np.float32] = pixels * np.float32(2 / 255) - np.float32(1)
    classes = read_label_map(label_map)
    if classes.shape != normals.shape[:2]:
        raise ReconError(
            f"{path} is {_size(normals)} pixels, but {label_map} is {_size(classes)}. Unpack both "
            "again."
        )
    normals[~np.isin(classes, NORMALS)] = 0
    return normals


def read_edges(path: Path) -> NDArray[np.uint8]:
    """Return 1 where the classes of a label map change, thinned to lines of a pixel: ``[H, W]``.

    Raises:
        MissingPackageError: scikit-image is not installed.
        ReconError: The file is damaged.
    """
    try:
        from skimage.morphology import thin
    except ImportError as error:
        raise MissingPackageError("The task edge", "scikit-image", "edges") from error
    changes = ndimage.laplace(read_label_map(path).astype(np.float64), mode="mirror") != 0
    thinned: NDArray[np.uint8] = thin(changes).astype(np.uint8)
    return thinned


def read_label_map(path: Path) -> NDArray[Any]:
    """Return the classes ``[H, W]`` of PASCAL-Context, from 1 to 459, of a MATLAB file.

    Raises:
        ReconError: It is damaged, or has no ``LabelMap``.
    """
    found = _load(path, "LabelMap")
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind not in "uif":
        raise ReconError(f"LabelMap in {path} must be a matrix of numbers. Unpack the file again.")
    return found


def read_human_parts(path: Path) -> NDArray[np.uint8] | None:
    """Return the parts of people ``[H, W]``, 0 for none; None where no person has parts.

    Args:
        path: A MATLAB file with ``anno``: the name of the image, and its objects. An object is the
            name and the number of its class, its mask, and its parts: names and masks. People are
            the class 15.

    Raises:
        ReconError: It is damaged, or has a part that is not one of a person.
    """
    target = None
    try:
        for item in _load(path, "anno")[0][0][1][0]:
            if int(item[1][0][0]) != PERSON or len(item[3]) == 0:
                continue
            for part in item[3][0]:
                name, mask = str(part[0][0]), np.asarray(part[1], dtype=bool)
                if target is None:
                    target = np.zeros(mask.shape, dtype=np.uint8)
                target[mask] = PARTS[name]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ReconError(
            f"anno in {path} must have the objects of an image, with their parts, as PASCAL-Part "
            f"has them ({type(error).__name__}: {error}). Unpack the file again."
        ) from error
    return target


def _flat(path: Path) -> NDArray[np.uint8]:
    """Return a PNG of one channel, whose palette, if any, is left aside."""
    pixels = np.asarray(open_image(path))
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise ReconError(
            f"{path} must have one number from 0 to 255 per pixel, but has colours or other "
            "numbers. Unpack it again."
        )
    return pixels


def _load(path: Path, name: str) -> Any:
    try:
        # A file that is damaged makes scipy raise errors of all kinds.
        content = io.loadmat(path, variable_names=[name])
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ReconError(
            f"{path} cannot be read as a MATLAB file ({reason}). Unpack it again."
        ) from error
    if name not in content:
        raise ReconError(f"{path} has no variable {name}. Unpack it again.")
    return content[name]


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[1]}×{array.shape[0]}"
