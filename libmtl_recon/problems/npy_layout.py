"""The .npy folders in which MTAN's authors give their preprocessed data sets, and their checks.

``{train,val}/{image,label,depth,normal}/{0,1,…}.npy``, one array per image and kind. A check at the
start of a run lists the folders and looks at the first and the last file of each; that a file in
between is damaged is found when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.errors import ReconError
from libmtl_recon.problems.data_folder import VARIABLE
from libmtl_recon.texts import bounded

# The data sets' own names, and what they are here: the papers report results on `val`.
PARTS = {"train": "train", "test": "val"}
# Entries per pixel; of classes there is one, in an array of two or three dimensions.
CHANNELS = {"image": 3, "segmentation": 1, "depth": 1, "normal": 3}
_SMALLEST = 2  # pixels, of which a part can be enlarged


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Attributes:
        name: Its name, for messages.
        subfolder: The name of its folder, which is that of the problem.
        classes: The number of classes.
        images: The number of images in the whole data set's training and test part.
        folders: For the image and for each task, the names that its folder may have, the first one
            that is there being used.
    """

    name: str
    subfolder: str
    classes: int
    images: tuple[int, int]
    folders: Mapping[str, tuple[str, ...]]

    @property
    def way_out(self) -> str:
        """Return where to get the data set and how it must lie."""
        kinds = ",".join(names[0] for names in self.folders.values())
        return (
            f"The files preprocessed by MTAN's authors are linked at "
            f"https://github.com/lorenmt/mtan; unpack them so that there are the folders "
            f"{self.subfolder}/{{train,val}}/{{{kinds}}} with 0.npy, 1.npy, … inside the folder "
            f"that the environment variable {VARIABLE} names. To try the problem without them, "
            f"run `libmtl-recon sample {self.subfolder} DIR`."
        )


@dataclass(frozen=True)
class Files:
    """The files of one part of a data set.

    Attributes:
        layout: The data set's.
        folders: Where the image's and each task's files are.
        shapes: The shape of each one's arrays.
        count: The number of images.
    """

    layout: Layout
    folders: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    count: int


def find_files(folder: Path, layout: Layout) -> dict[str, Files]:
    """Return the files of the training and of the test part.

    Args:
        folder: The data set's folder.
        layout: What it must contain.

    Raises:
        ReconError: The data set is missing, or not whole, or of another kind.
    """
    if not folder.is_dir():
        raise ReconError(
            f"{layout.name} is not there: {folder} is no folder, and beside it there is "
            f"{_content(folder.parent)}. {layout.way_out}"
        )
    missing = [
        f"{part}/{' or '.join(names)}"
        for part in PARTS.values()
        for names in layout.folders.values()
        if not any((folder / part / name).is_dir() for name in names)
    ]
    if missing:
        raise ReconError(
            f"{layout.name} is not whole in {folder}: {_listed(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, and there is {_content(folder)}. "
            f"{layout.way_out}"
        )
    return {name: _part(folder / part, layout) for name, part in PARTS.items()}


def _part(folder: Path, layout: Layout) -> Files:
    folders = {
        kind: next(folder / name for name in names if (folder / name).is_dir())
        for kind, names in layout.folders.items()
    }
    numbers = {kind: _numbers(own) for kind, own in folders.items()}
    count = max(map(len, numbers.values()))
    faults = []
    for kind, found in numbers.items():
        lacking = sorted(set(range(count)) - found)
        if lacking:
            where = ", ".join(f"{number}.npy" for number in lacking[:3])
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            faults.append(f"{folders[kind]} has {len(found)} files and lacks {where}{more}")
    if count == 0:
        faults = [f"{folder} has no file 0.npy in its folders"]
    if faults:
        others = f", of {count} images" if count else ""
        raise ReconError(
            f"{layout.name} is not whole: {_listed(faults, '; ')}{others}. {layout.way_out}"
        )
    shapes = {}
    for kind, own in folders.items():
        first = opened(own / "0.npy", kind).shape
        check_shape(own / f"{count - 1}.npy", kind, first)
        shapes[kind] = first
    size = shapes["segmentation"][:2]
    for kind, shape in shapes.items():
        if kind != "image" and shape[:2] != size:
            raise ReconError(
                f"{folders[kind] / '0.npy'} is {list(shape)}, but "
                f"{folders['segmentation'] / '0.npy'} is {list(shapes['segmentation'])}: an "
                f"image's labels must have one height and width. {layout.way_out}"
            )
    return Files(layout, folders, shapes, count)


def opened(path: Path, kind: str) -> NDArray[np.generic]:
    """Return an array of which nothing but the header has been read.

    Args:
        path: The file.
        kind: What it is of, a key of ``CHANNELS``.

    Raises:
        ReconError: It is missing, cut off, no .npy file, or of another kind.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        # On one line: NumPy may say much.
        reason = " ".join(str(error).split())
        raise ReconError(
            f"{path} cannot be read as a .npy file ({reason}). Unpack it again."
        ) from error
    channels = CHANNELS[kind]
    numbers, entries = ("fiu", "numbers") if kind == "segmentation" else ("f", "floats")
    shapes = [(), (1,)] if channels == 1 else [(channels,)]
    if not isinstance(found, np.ndarray):
        found.close()
        is_ = "an archive of arrays"
    elif found.ndim < 2 or found.shape[2:] not in shapes or found.dtype.kind not in numbers:
        is_ = f"{found.dtype} {list(found.shape)}"
    elif min(found.shape[:2]) < _SMALLEST:
        raise ReconError(
            f"{path} must have at least {_SMALLEST}×{_SMALLEST} pixels, but is "
            f"{list(found.shape)}. Unpack it again."
        )
    else:
        return found
    wanted = "[H, W] or [H, W, 1]" if channels == 1 else f"[H, W, {channels}]"
    raise ReconError(
        f"{path} must have {entries} {wanted}, but is {is_}. Use the files as MTAN's authors "
        "preprocessed them, with images from 0 to 1."
    )


def check_shape(path: Path, kind: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Return an array, as :func:`opened` does, that has a shape.

    Raises:
        ReconError: It has another one, or cannot be opened.
    """
    found = opened(path, kind)
    if found.shape != shape:
        raise ReconError(
            f"{path} is {list(found.shape)}, but {path.with_name('0.npy')} is {list(shape)}: all "
            "arrays of a folder must have one shape. Unpack them again."
        )
    return found


def _numbers(folder: Path) -> set[int]:
    """Return the numbers in the names of a folder's files, ``7`` for ``7.npy``."""
    stems = (path.stem for path in folder.iterdir() if path.suffix == ".npy")
    return {
        int(stem) for stem in stems if stem.isascii() and stem.isdigit() and stem == str(int(stem))
    }


def _content(folder: Path) -> str:
    """Return what is in a folder and in those inside it, for a message."""
    found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    names = sorted(path.relative_to(folder).as_posix() for path in found)
    return bounded(", ".join(names), 200) or "nothing"


def _listed(names: list[str], comma: str = ", ") -> str:
    shown = comma.join(names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
