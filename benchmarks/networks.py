"""The networks of the benchmarks of steps, with random data of their input shapes.

Each has an encoder, which all tasks share, and a head per task, which classifies ten classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

CLASSES = 10
_CENSUS_FEATURES = 485  # of the public test file
_WORDS = 10_000


@dataclass(frozen=True)
class Network:
    """A network with its data.

    Attributes:
        encoder: A function that creates the shared part, for inputs of a size.
        head: A function that creates a task's own part.
        inputs: A function that draws a batch, given its length and the size.
        of: The unit of the size; empty if there is none.
        per_pixel: Whether each pixel has a label, not each sample.
    """

    encoder: Callable[[int], nn.Module]
    head: Callable[[], nn.Module]
    inputs: Callable[[int, int], Tensor]
    of: str = "pixels"
    per_pixel: bool = False

    def labels(self, tasks: int, batch: int, size: int) -> Tensor:
        """Draw a class per task and sample, ``[T, B]``, or per pixel, ``[T, B, size, size]``."""
        return torch.randint(CLASSES, (tasks, batch, *([size, size] if self.per_pixel else [])))


def _images(batch: int, size: int) -> Tensor:
    return torch.randn(batch, 3, size, size)


def _people(batch: int, _: int) -> Tensor:
    return torch.randn(batch, _CENSUS_FEATURES)


def _sentences(batch: int, size: int) -> Tensor:
    return torch.randint(_WORDS, (batch, size))


def _linear(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(width, CLASSES)


def _tiny(_: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _resnet(name: str) -> Callable[[int], nn.Module]:
    def make(_: int) -> nn.Module:
        network: nn.Module = getattr(torchvision.models, name)(weights=None)
        network.fc = nn.Identity()
        return network

    return make


def _vit(size: int) -> nn.Module:
    network: Any = torchvision.models.VisionTransformer(
        image_size=size,
        patch_size=16,
        num_layers=12,
        num_heads=6,
        hidden_dim=384,
        mlp_dim=1536,
    )
    network.heads = nn.Identity()
    made: nn.Module = network
    return made


def _mlp(_: int) -> nn.Module:
    from libmtl_recon.problems.census_income import MLP

    return MLP(_CENSUS_FEATURES, 192, 0.3)


class LSTM(nn.Module):
    """A two-layer LSTM over words, which returns its last state: 2.2 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_WORDS, 128)
        self.lstm = nn.LSTM(128, 256, num_layers=2, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """Encode ``[B, words]`` to ``[B, 256]``."""
        states: Tensor = self.lstm(self.embedding(words))[0]
        return states[:, -1]


class SegNet(nn.Module):
    """SegNet, encoding to an eighth of the size, decoding by max-pooling indices: 2.3 million."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.first = _convolved(3, widths[0])
        self.down = nn.ModuleList(_convolved(a, b) for a, b in pairs)
        self.up = nn.ModuleList(_convolved(b, a) for a, b in reversed(pairs))

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[B, 3, size, size]`` to ``[B, 32, size, size]``; the size is a multiple of 8."""
        x, places = self.first(images), []
        for block in self.down:
            x, place = nn.functional.max_pool2d(block(x), 2, return_indices=True)
            places.append(place)
        for block in self.up:
            x = block(nn.functional.max_unpool2d(x, places.pop(), 2))
        return x


def _convolved(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


NETWORKS = {
    "resnet18": Network(_resnet("resnet18"), _linear(512), _images),
    "resnet50": Network(_resnet("resnet50"), _linear(2048), _images),
    "vit": Network(_vit, _linear(384), _images),
    "mlp": Network(_mlp, _linear(192), _people, of=""),
    "lstm": Network(lambda _: LSTM(), _linear(256), _sentences, of="words"),
    "segnet": Network(
        lambda _: SegNet(), lambda: nn.Conv2d(32, CLASSES, 1), _images, per_pixel=True
    ),
    "tiny": Network(_tiny, _linear(4), _images),
}
