"""Data sets of image files, and their loaders: whole batches, and errors that stay readable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from libmtl_recon.errors import ReconError

# Of ImageNet's images, with which torchvision's weights were trained.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
Sample = tuple[Tensor, dict[str, Tensor]]


class ImageFiles(ABC, Dataset[Sample]):
    """A data set that reads its files on request."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Return an image, float32 ``[3, H, W]``, and its labels.

        Raises:
            ReconError: A file is damaged.
        """

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch, or the ReconError that prevents it: see :class:`ImageLoader`."""
        try:
            return default_collate([self[index] for index in indices])
        except ReconError as error:
            return error


class ImageLoader(DataLoader[Any]):
    """A loader of :class:`ImageFiles`.

    An error of a worker process would be raised with the process's traceback as its message, so
    that errors come as batches, and are raised here.

    Args:
        files: The data set.
        batch_size: Images per batch.
        train: Whether to draw the images in random order and to leave out an incomplete last
            batch, unless it is the only one. Batch norms of one image have no variance.
        workers: The processes that load; 0 for none but this one.
    """

    def __init__(self, files: ImageFiles, batch_size: int, *, train: bool, workers: int) -> None:
        super().__init__(
            files,
            batch_size,
            shuffle=train,
            drop_last=train and len(files) >= batch_size,
            num_workers=workers,
            collate_fn=_as_it_is,
        )

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches.

        Raises:
            ReconError: A file is damaged.
        """
        for batch in super().__iter__():
            if isinstance(batch, ReconError):
                raise batch
            yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


def open_image(path: Path, mode: str | None = None) -> Image.Image:
    """Return an image, read to its end.

    Args:
        path: The file.
        mode: Pillow's mode to convert it to (``"RGB"``); None for that of the file.

    Raises:
        ReconError: It is missing, cut off, or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image if mode is None else image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # On one line: Pillow may say much.
        reason = " ".join(str(error).split())
        raise ReconError(
            f"{path} cannot be read as an image ({reason}). Unpack it again."
        ) from error


def normalised(pixels: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    """Return pixels ``[H, W, 3]`` from 0 to 255 as float32 ``[3, H, W]``, as ImageNet's are."""
    values = torch.from_numpy(np.array(pixels, dtype=np.float32)).permute(2, 0, 1) / 255
    return (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
