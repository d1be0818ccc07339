"""A sample of CityScapes in the format of MTAN's authors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from libmtl_recon.problems.samples.scenes import holes, save, scene, shrunk

SIZE, CLASSES = (128, 256), 7
IMAGE_SCALE = 1 / 2  # smaller than the labels, which the format allows: for a CPU


def write(folder: Path, images: int, seed: int) -> None:
    """Write ``{train,val}/{image,label_7,depth}/{0..images-1}.npy``."""
    for number, part in enumerate(("train", "val")):
        random = np.random.default_rng((seed, number))
        for index in range(images):
            found = scene(random, SIZE, CLASSES)
            distance = found["depth"]
            # From 0.05 to 0.5, as the real ones; 0 where nothing is measured.
            inverse = np.divide(0.5, distance, out=np.zeros_like(distance), where=distance > 0)
            inverse[holes(random, SIZE)] = 0
            image = shrunk(found["image"], IMAGE_SCALE)
            arrays = {"image": image, "label_7": found["label"], "depth": inverse}
            save(arrays, folder / part, index)
