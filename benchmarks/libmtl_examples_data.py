"""Small learnable data in the formats of the examples of LibMTL's main branch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from libmtl_recon.problems.samples.scenes import save, scene, shrunk

# The sizes to which the examples' process_preds scales every prediction.
NYU_SIZE, CITYSCAPES_SIZE = (288, 384), (128, 256)
NYU_CLASSES, CITYSCAPES_CLASSES = 13, 7
OFFICE_31 = ("amazon", "dslr", "webcam")
# The files that resnet18(pretrained=True) and resnet_dilated("resnet50") would download.
_PRETRAINED = ("resnet18-5c106cde.pth", "resnet50-19c8e357.pth")


def write_nyu(folder: Path, images: int, scale: float, seed: int = 0) -> None:
    """Write data in the format of NYUv2 in `examples/nyu`.

    Args:
        folder: The folder for ``{train,val}/{image,label,depth,normal}/{0..n-1}.npy``.
        images: The number of images for training; half as many are for validation.
        scale: The scale of the images' height and width; the labels keep the size that the
            example's losses need.
        seed: The seed of the scenes.
    """
    _write_scenes(folder, images, NYU_SIZE, NYU_CLASSES, scale, seed, normals=True)


def write_cityscapes(folder: Path, images: int, scale: float, seed: int = 0) -> None:
    """Write data in the format of `examples/cityscapes`; see :func:`write_nyu`."""
    _write_scenes(folder, images, CITYSCAPES_SIZE, CITYSCAPES_CLASSES, scale, seed, normals=False)


def write_office(folder: Path, lists: Path, images: int, classes: int = 31, seed: int = 0) -> None:
    """Write data in the format of Office-31 in `examples/office`.

    Args:
        folder: The folder for the pictures, ``{domain}/images/class_C/N.png``.
        lists: The folder for ``{domain}_{train,val,test}.txt``, lines of ``path class``.
        images: The number of pictures per domain for training; half as many are for validation and
            for test.
        classes: The number of classes.
        seed: The seed of the pictures.
    """
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(0).integers(40, 216, (classes, 3))
    lists.mkdir(parents=True, exist_ok=True)
    for shift, domain in enumerate(OFFICE_31):
        for part, count in (("train", images), ("val", images // 2), ("test", images // 2)):
            lines = []
            for index in range(count):
                label = int(random.integers(classes))
                name = f"{domain}/images/class_{label:02d}/{part}_{index:04d}.png"
                pixels = random.normal(colours[label] + 10 * shift, 20, (64, 64, 3))
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
                lines.append(f"{name} {label}\n")
            (lists / f"{domain}_{part}.txt").write_text("".join(lines), encoding="utf-8")


def link_checkout(checkout: Path, folder: Path) -> None:
    """Create a checkout of LibMTL whose files are links, except the lists of `examples/office`.

    LibMTL only reads those lists from the folder next to its own package.
    """
    for source in (checkout / "LibMTL", checkout / "examples" / "nyu"):
        _link(source, folder / source.relative_to(checkout))
    _link(checkout / "examples" / "cityscapes", folder / "examples" / "cityscapes")
    for source in (checkout / "examples" / "office").glob("*.py"):
        _link(source, folder / "examples" / "office" / source.name)


def write_pretrained(torch_home: Path) -> None:
    """Write empty state dicts in place of missing pretrained weights.

    LibMTL loads them with ``strict=False``, so the networks start with their random weights.
    """
    checkpoints = torch_home / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    for name in _PRETRAINED:
        if not (checkpoints / name).exists():
            torch.save({}, checkpoints / name)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.is_symlink():
        target.symlink_to(os.path.realpath(source))


def _write_scenes(
    folder: Path,
    images: int,
    size: tuple[int, int],
    classes: int,
    scale: float,
    seed: int,
    *,
    normals: bool,
) -> None:
    random = np.random.default_rng(seed)
    for part, count in (("train", images), ("val", max(images // 2, 1))):
        for index in range(count):
            arrays = scene(random, size, classes)
            if not normals:
                del arrays["normal"]
            arrays["image"] = shrunk(arrays["image"], scale)
            save(arrays, folder / part, index)
