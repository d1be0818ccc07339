"""Runnable LibMTL scripts, written as a user of LibMTL writes them, and demonstrations."""

from __future__ import annotations

from pathlib import Path

BUILT_IN = {
    "multidigits": "two overlapping handwritten digits per image; included data, seconds on a CPU",
    "census_income": "income, marital status and education from a census form; UCI's public files",
    "multi_fashion_mnist": "an MNIST digit and a Fashion-MNIST article per image, ResNet18",
    "nyuv2": "classes, depth and surface normals of indoor scenes; needs MTAN's public files",
    "cityscapes": "classes and inverse depth of street scenes; needs MTAN's public files",
    "pascal_context": "classes, parts of people, saliency, normals, edges; needs public files",
    "celeba": "40 attributes of a face, one task each, ResNet18; needs CelebA's public files",
}
# These train no network with LibMTL's Trainer: they can be run, not scored or searched.
DEMONSTRATIONS = {
    "toy2d": "a picture of the paths of GradOPS and five other methods on two losses in the plane",
}


def path_of(problem: str) -> Path:
    """Return the path of the script of a built-in problem or demonstration."""
    return Path(__file__).parent / f"{problem}.py"
