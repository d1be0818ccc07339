"""Small residual networks that all of LibMTL's architectures accept."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# LibMTL's MTAN has a ResNet's widths, 64 to 512, in its code; here they are divided by this.
NARROWER = 16
WIDTHS = tuple(width // NARROWER for width in (64, 128, 256, 512))
IMAGE = (3, 16, 16)


class Block(nn.Module):
    """A residual block with one convolution and a shortcut without parameters."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outside)
        self.stride, self.more = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inside, H, W]`` to ``[B, outside, H / stride, W / stride]``."""
        around = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            around = nn.functional.pad(around, (0, 0, 0, 0, 0, self.more))
        return torch.relu(self.bn(self.conv(x)) + around)


class SmallResNet(nn.Module):
    """A ResNet with the names that LibMTL looks for, half as deep and sixteen times narrower."""

    feature_dim = 512  # by which LibMTL's MTAN distinguishes basic blocks from bottlenecks

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inside = WIDTHS[0]
        for number, outside in enumerate(WIDTHS, 1):
            stride = 1 if number == 1 else 2
            stage = nn.Sequential(Block(inside, outside, stride), Block(outside, outside, 1))
            setattr(self, f"layer{number}", stage)
            inside = outside

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, 3, 16, 16]`` to ``[B, 32, 1, 1]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class WrappedResNet(nn.Module):
    """A ResNet under the name that LibMTL looks for, followed by another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet_network = SmallResNet()
        self.own = nn.Conv2d(WIDTHS[3], WIDTHS[3], 1)

    def forward(self, x: Tensor) -> Any:
        """Return a tensor, or one per task if the inner network (changed by MTAN) does so."""
        found = self.resnet_network(x)
        if isinstance(found, list):
            return [torch.relu(self.own(one)) for one in found]
        return torch.relu(self.own(found))


def make_decoder(*, normed: bool = False) -> nn.Module:
    """Create a decoder that maps the encoder's output to the logits of two classes.

    Args:
        normed: Normalise the encoder's output. Cross_stitch of LibMTL's main branch starts by
            summing the features of all tasks at each stage, so that with five tasks a loss soon
            becomes exactly 0, and some methods take its logarithm.
    """
    norm = [nn.LayerNorm(WIDTHS[3], elementwise_affine=False)] if normed else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *norm, nn.Linear(WIDTHS[3], 2))


class NarrowNumpy:
    """NumPy with narrower widths for LibMTL's MTAN."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def array(self, values: Any, *args: Any, **kwargs: Any) -> Any:
        """Create an array as NumPy does; a ResNet's widths are replaced by narrower ones."""
        if list(values) == [64, 128, 256, 512]:
            values = WIDTHS
        return np.array(values, *args, **kwargs)
