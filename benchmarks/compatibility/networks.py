"""Small residual networks that all of LibMTL's architectures can take apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# LibMTL's MTAN writes a ResNet's widths, 64 to 512, into its code; here they are divided by this.
NARROWER = 16
WIDTHS = tuple(width // NARROWER for width in (64, 128, 256, 512))
IMAGE = (3, 16, 16)


class Block(nn.Module):
    """A residual block of one convolution; the way around it has no parameters."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outside)
        self.stride, self.more = stride, outside - inside

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inside, H, W]`` to ``[B, outside, H / stride, W / stride]``."""
        around = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            around = nn.functional.pad(around, (0, 0, 0, 0, 0, self.more))
        return torch.relu(self.bn(self.conv(x)) + around)


class SmallResNet(nn.Module):
    """A ResNet with the names that LibMTL looks for, half as deep and sixteen times narrower."""

    feature_dim = 512  # LibMTL's MTAN tells basic blocks from bottlenecks by it

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
        """``[B, 3, 16, 16]`` to ``[B, 32, 1, 1]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class WrappedResNet(nn.Module):
    """A ResNet under the name that LibMTL looks for, with a layer of its own behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet_network = SmallResNet()
        self.own = nn.Conv2d(WIDTHS[3], WIDTHS[3], 1)

    def forward(self, x: Tensor) -> Any:
        """As the network inside it: LibMTL's MTAN makes that return one tensor a task."""
        found = self.resnet_network(x)
        if isinstance(found, list):
            return [torch.relu(self.own(one)) for one in found]
        return torch.relu(self.own(found))


def make_decoder(*, normed: bool = False) -> nn.Module:
    """Two classes from an encoder's output.

    Args:
        normed: Bring what the encoder gives to one length. LibMTL main's Cross_stitch starts by
            adding up the features of all tasks at each stage, so that with five tasks a loss is
            soon exactly 0, of which a method may take the logarithm.
    """
    norm = [nn.LayerNorm(WIDTHS[3], elementwise_affine=False)] if normed else []
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *norm, nn.Linear(WIDTHS[3], 2))


class NarrowNumpy:
    """NumPy, but for the widths that LibMTL's MTAN writes down."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def array(self, values: Any, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's, narrower where the values are a ResNet's widths."""
        if list(values) == [64, 128, 256, 512]:
            values = WIDTHS
        return np.array(values, *args, **kwargs)
