"""A sample of NYUv2 in the format of MTAN's authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from libmtl_recon.problems.samples.scenes import holes, save, scene

SIZE, CLASSES = (288, 384), 13


def write(folder: Path, images: int, seed: int) -> None:
    """Write ``{train,val}/{image,label,depth,normal}/{0..images-1}.npy``."""
    for number, part in enumerate(("train", "val")):
        random = np.random.default_rng((seed, number))
        for index in range(images):
            arrays = scene(random, SIZE, CLASSES)
            unmeasured = holes(random, SIZE)
            arrays["depth"][unmeasured] = 0
            arrays["normal"][unmeasured] = 0
            save(arrays, folder / part, index)
