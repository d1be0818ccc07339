"""Torchvision's ResNet at any width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class ScaledResNet(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """Torchvision's ResNet without its last layer, of any width.

    The layers keep torchvision's names.

    Args:
        block: Torchvision's class of a residual block.
        blocks: Their number in each of the four stages.
        width: Channels of the first stage; each further stage has twice as many.
        channels: Of an image.
        dilated: Whether the last two stages keep the size of the images and are dilated instead.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        width: int,
        *,
        channels: int = 3,
        dilated: bool = False,
    ) -> None:
        # Torchvision's widths are fixed: its layers stay empty and are replaced one by one.
        with torch.device("meta"):
            super().__init__(block, list(blocks))
        del self.fc
        self.inplanes, self.dilation = width, 1
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._make_layer(block, width, blocks[0])
        self.layer2 = self._make_layer(block, 2 * width, blocks[1], 2)
        self.layer3 = self._make_layer(block, 4 * width, blocks[2], 2, dilated)
        self.layer4 = self._make_layer(block, 8 * width, blocks[3], 2, dilated)

    def initialize(self) -> None:
        """Draw all convolutions from He's normal distribution, as torchvision does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
