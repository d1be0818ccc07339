"""A sample of NYUv2 in the format of MTAN's authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from libmtl_recon.problems.samples.scenes import holes, save, scene, shrunk

SIZE, CLASSES = (288, 384), 13
# The images are smaller than their labels, which the format allows: at their full size a step of
# SegNet with MTAN takes 40 seconds of a CPU.
IMAGE_SCALE = 1 / 3


def write(folder: Path, images: int, seed: int) -> None:
    """Write ``{train,val}/{image,label,depth,normal}/{0..images-1}.npy``."""
    for number, part in enumerate(("train", "val")):
        random = np.random.default_rng((seed, number))
        for index in range(images):
            arrays = scene(random, SIZE, CLASSES)
            unmeasured = holes(random, SIZE)
            arrays["depth"][unmeasured] = 0
            arrays["normal"][unmeasured] = 0
            arrays["image"] = shrunk(arrays["image"], IMAGE_SCALE)
            save(arrays, folder / part, index)
