"""Small synthetic data sets in the formats of the real ones, to try a problem without its data."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from libmtl_recon.errors import UsageError
from libmtl_recon.problems.samples.folder import replaced

SAMPLES = {
    "celeba": "CelebA as torchvision unpacks it: 40 attributes of faces",
    "cityscapes": "CityScapes in MTAN's .npy folders: segmentation, inverse depth",
    "nyuv2": "NYUv2 in MTAN's .npy folders: segmentation, depth, surface normals",
    "pascal_context": "PASCAL-Context in the folders of PASCAL_MT: five dense tasks",
}


def write_sample(problem: str, folder: Path, images: int, seed: int) -> Path:
    """Write a problem's sample to a folder of the problem's name.

    Args:
        problem: One of :data:`SAMPLES`.
        folder: The folder to put it in, as ``LIBMTL_RECON_DATA`` names one; made if missing.
        images: The number of images in each part of the data, at least 2.
        seed: The seed of the images: the same seed makes the same files.

    Returns:
        ``folder / problem``.

    Raises:
        UsageError: There is no such sample.
        ReconError: ``folder / problem`` is there and is no sample, or cannot be written.
    """
    if problem not in SAMPLES:
        known = ", ".join(SAMPLES)
        raise UsageError("problem", f"must be one of {known}", problem, "Choose one of them.")
    if images < 2:
        raise UsageError("images", "must be at least 2", images, "Batches have two or more.")
    module = import_module(f"{__name__}.{problem}")
    target = Path(folder) / problem
    with replaced(target) as empty:
        module.write(empty, images, seed)
    return target
