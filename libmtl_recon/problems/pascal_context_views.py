"""What a network is shown of an image of any size: all of it, or a random part, in a square."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

VOID = 255.0
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
Labels = dict[str, Tensor]
View = Callable[[Tensor, Labels], tuple[Tensor, Labels]]


def whole_view(image: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
    """Return all of an image, in its own size."""
    return image, labels


class PaddedView:
    """All of an image in the middle of a square, between void pixels.

    An image that is larger than the square is shrunk to fit it.

    Args:
        size: Of the square, in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
        """Return the square of an image ``[3, H, W]`` and of its labels ``[C, H, W]``."""
        return padded(*fitted(image, labels, self.size), self.size)


class RandomView:
    """A random part of an image of a random size, mirrored in half of the cases, as BMTAS trains.

    The image is scaled by one of 0.5, 0.75, …, 2, of which a random square is cut out. What is
    smaller than the square is padded. An image that is larger than the square is shrunk to fit it
    before.

    Args:
        size: Of the square, in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
        """Return the square of an image ``[3, H, W]`` and of its labels ``[C, H, W]``."""
        image, labels = fitted(image, labels, self.size)
        scale = SCALES[int(torch.randint(len(SCALES), ()))]
        height, width = (max(1, int(side * scale)) for side in image.shape[1:])
        image, labels = padded(*resized(image, labels, (height, width)), self.size)
        top, left = (int(torch.randint(side - self.size + 1, ())) for side in image.shape[1:])
        window = (..., slice(top, top + self.size), slice(left, left + self.size))
        image, labels = image[window], {task: label[window] for task, label in labels.items()}
        return mirrored(image, labels) if bool(torch.randint(2, ())) else (image, labels)


def fitted(image: Tensor, labels: Labels, size: int) -> tuple[Tensor, Labels]:
    """Return an image and its labels, shrunk if a side is longer than ``size``."""
    longest = max(image.shape[1:])
    if longest <= size:
        return image, labels
    height, width = (max(1, round(side * size / longest)) for side in image.shape[1:])
    return resized(image, labels, (height, width))


def resized(image: Tensor, labels: Labels, size: tuple[int, int]) -> tuple[Tensor, Labels]:
    """Return an image resized bilinearly, and of its labels the nearest pixels."""
    if tuple(image.shape[1:]) == size:
        return image, labels
    smooth = functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    return smooth, {
        task: functional.interpolate(label[None], size, mode="nearest-exact")[0]
        for task, label in labels.items()
    }


def padded(image: Tensor, labels: Labels, size: int) -> tuple[Tensor, Labels]:
    """Return an image of at least ``size`` pixels per side, the old one in its middle.

    Of the image, new pixels have ImageNet's mean colour, which is 0 here; of the labels, they are
    void.
    """
    rows, columns = (max(0, size - side) for side in image.shape[1:])
    if not rows and not columns:
        return image, labels
    frame = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    return functional.pad(image, frame), {
        task: functional.pad(label, frame, value=0.0 if task == "normals" else VOID)
        for task, label in labels.items()
    }


def mirrored(image: Tensor, labels: Labels) -> tuple[Tensor, Labels]:
    """Return an image with left and right exchanged; its normals point to the other side, too."""
    labels = {task: label.flip(-1) for task, label in labels.items()}
    if "normals" in labels:
        labels["normals"] = labels["normals"] * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    return image.flip(-1), labels
