"""MNIST and Fashion-MNIST as torchvision keeps them, but of noise, and few."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

COUNTS = {"train": 60, "t10k": 20}


def write_noise_images(folder: Path) -> None:
    """Write both data sets; every image is one of its own."""
    rng = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        raw = folder / name / "raw"
        raw.mkdir(parents=True)
        for part, count in COUNTS.items():
            images = rng.integers(1, 256, size=(count, 28, 28), dtype=np.uint8)
            labels = rng.integers(10, size=count, dtype=np.uint8)
            header = struct.pack(">4i", 2051, count, 28, 28)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
            header = struct.pack(">2i", 2049, count)
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
