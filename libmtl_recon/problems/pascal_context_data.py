"""PASCAL-Context with the labels of five tasks, in the folders of PASCAL_MT.

They are ``JPEGImages``, ``semseg``, ``human_parts``, ``sal_distill``, ``normals_distill``,
``pascal-context`` and ``ImageSets``, as in the archive of Maninis et al. (2019). Only those of the
tasks wanted are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from libmtl_recon.errors import ReconError
from libmtl_recon.problems import pascal_context_labels as labels
from libmtl_recon.problems.data_folder import VARIABLE
from libmtl_recon.problems.image_files import ImageFiles, Sample, normalised, open_image
from libmtl_recon.problems.pascal_context_views import VOID, View, whole_view

TASKS = ("semseg", "human_parts", "sal", "normals", "edge")
SUBFOLDER = "pascal_context"
ARCHIVE = "https://data.vision.ee.ethz.ch/kmaninis/share/MTL/PASCAL_MT.tgz"
PARTS = {"train": "train", "test": "val"}
_IMAGES, _MAPS = "JPEGImages/{}.jpg", "pascal-context/trainval/{}.mat"
# The files of an image that each task needs. Of semseg, each image has one of the two.
_SEMSEG = ("semseg/VOC12/{}.png", "semseg/pascal-context/{}.png")
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "semseg": (_SEMSEG,),
    "human_parts": (("human_parts/{}.mat",),),
    "sal": (("sal_distill/{}.png",),),
    "normals": (("normals_distill/{}.png",), (_MAPS,)),
    "edge": ((_MAPS,),),
}


class Scenes(ImageFiles):
    """Images with the labels of some tasks.

    Args:
        folder: The folder of the data set.
        names: The images' names.
        tasks: Those wanted, of ``TASKS``.
        view: What is shown of an image.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], tasks: Sequence[str], view: View = whole_view
    ) -> None:
        self.folder, self.names, self.tasks, self.view = folder, list(names), tuple(tasks), view

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Return an image and its labels, which void pixels and missing labels are marked in.

        Returns:
            The image, float32 ``[3, H, W]``, and of the tasks wanted: ``semseg``, int64
            ``[H, W]``, 21 classes; ``human_parts``, float32 ``[H, W]``, 7 classes; ``sal`` and
            ``edge``, float32 ``[1, H, W]`` of zeros and ones; ``normals``, float32 ``[3, H, W]``.
            Void is 255, and a normal of zero. The label of an image without the parts of a person,
            or without a normal, is NaN: it has none.

        Raises:
            ReconError: A file is damaged, or a label is not of the image's size.
        """
        image = normalised(np.asarray(open_image(self._path((_IMAGES,), index), "RGB")))
        found = {task: self._label(task, index, image) for task in self.tasks}
        image, found = self.view(image, found)
        if "human_parts" in found:
            parts = found["human_parts"][0]
            found["human_parts"] = _or_none(parts, (parts > 0) & (parts < VOID))
        if "normals" in found:
            found["normals"] = _or_none(found["normals"], found["normals"] != 0)
        if "semseg" in found:
            found["semseg"] = found["semseg"][0].long()
        return image, found

    def _label(self, task: str, index: int, image: Tensor) -> Tensor:
        """Return a label as it is in the files, float32 ``[C, H, W]``."""
        paths = [self._path(kinds, index) for kinds in _NEEDED[task]]
        size = tuple(image.shape[1:])
        found: object
        match task:
            case "semseg":
                found = labels.read_classes(*paths)
            case "human_parts":
                found = labels.read_human_parts(*paths)
                found = np.zeros(size, dtype=np.uint8) if found is None else found
            case "sal":
                found = labels.read_saliency(*paths)
            case "normals":
                found = labels.read_normals(*paths)
            case _:
                found = labels.read_edges(*paths)
        label = torch.from_numpy(np.array(found, dtype=np.float32))
        label = label.permute(2, 0, 1) if label.ndim == 3 else label.unsqueeze(0)
        if tuple(label.shape[1:]) != size:
            raise ReconError(
                f"{paths[0]} is {label.shape[2]}×{label.shape[1]} pixels, but its image is "
                f"{size[1]}×{size[0]}. Unpack both again."
            )
        return label

    def _path(self, kinds: Sequence[str], index: int) -> Path:
        paths = [self.folder / kind.format(self.names[index]) for kind in kinds]
        return next((path for path in paths if path.exists()), paths[0])


def _or_none(label: Tensor, labelled: Tensor) -> Tensor:
    """Return a label, or one of NaN, which says that there is none, if no pixel is labelled."""
    return label if bool(labelled.any()) else torch.full_like(label, torch.nan)


def load(folder: Path, tasks: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of the training images, and of the test images: the data set's ``val``.

    Args:
        folder: The folder with the contents of ``PASCAL_MT``.
        tasks: Those whose files must be there.

    Raises:
        ReconError: A folder or a file is missing, or a list of images is empty.
    """
    kinds = ((_IMAGES,), *dict.fromkeys(kind for task in tasks for kind in _NEEDED[task]))
    folders = [Path(kind[0]).parts[0] for kind in kinds] + ["ImageSets"]
    missing = [name for name in dict.fromkeys(folders) if not (folder / name).is_dir()]
    if missing:
        found = sorted(path.name for path in folder.glob("*"))
        raise ReconError(
            f"PASCAL-Context is not whole in {folder}: the folders {', '.join(missing)} are "
            f"missing; found: {', '.join(found) or 'nothing'}. {_way_out()}"
        )
    names = {part: _read_list(folder, split) for part, split in PARTS.items()}
    wanted = [name for part in names.values() for name in part]
    lacking = [said for kind in kinds if (said := _lacking(folder, kind, wanted))]
    if lacking:
        raise ReconError(
            f"PASCAL-Context is not whole in {folder}: of {len(wanted)} images are missing "
            f"{'; '.join(lacking)}. {_way_out()}"
        )
    return names


def _read_list(folder: Path, split: str) -> list[str]:
    path = folder / "ImageSets" / "Context" / f"{split}.txt"
    try:
        names = path.read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ReconError(f"{path} cannot be read ({error}). {_way_out()}") from error
    if not names:
        raise ReconError(f"{path} names no images. {_way_out()}")
    return names


def _lacking(folder: Path, kinds: Sequence[str], names: Sequence[str]) -> str:
    """Say how many files of a kind are missing, and which is the first; "" if none."""
    places = [(folder / Path(kind).parent, Path(kind).suffix) for kind in kinds]
    there = {
        path.stem
        for place, suffix in places
        if place.is_dir()
        for path in place.iterdir()
        if path.suffix == suffix
    }
    absent = [name for name in names if name not in there]
    files = " or ".join(kind.format("*") for kind in kinds)
    return f"{len(absent)} of {files} (first: {absent[0]})" if absent else ""


def _way_out() -> str:
    return (
        f"Download {ARCHIVE}, unpack it inside the folder that the environment variable {VARIABLE} "
        f"names, and rename its folder PASCAL_MT to {SUBFOLDER}, so that {SUBFOLDER}/JPEGImages "
        "holds the images. To try the problem without them, run `libmtl-recon sample "
        f"{SUBFOLDER} DIR`."
    )
