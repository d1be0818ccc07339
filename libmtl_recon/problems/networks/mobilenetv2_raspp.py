"""MobileNetV2 with R-ASPP, and a small DeepLabv3+ decoder per task.

The network of Recon's experiments on PASCAL-Context (Appendix B.4), which is that of BMTAS:
torchvision's MobileNetV2 up to its 320 channels, with output stride 16, and a reduced ASPP of 128
channels, all shared. Each task's decoder joins them with the features at a quarter of the size.

Sandler et al.: MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018.
Bruggemann et al.: Automated Search for Resource-Efficient Branched Multi-Task Networks, 2020.
Chen et al.: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation,
2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, MobileNetV2
from torchvision.ops import Conv2dNormActivation

from libmtl_recon.problems.networks.imagenet import loading
from libmtl_recon.problems.networks.network import Network, scaled

WEIGHTS = MobileNet_V2_Weights.IMAGENET1K_V1
_LOW = 3  # the last layer at a quarter of the image's size
_ASPP, _REDUCED = 128, 48  # channels
_DILATED = slice(14, 18)  # the layers that torchvision has at a 32nd of the image's size
_convolved = partial(Conv2dNormActivation, activation_layer=nn.ReLU6)


class MobileNetV2RASPP(nn.Module):
    """MobileNetV2 with R-ASPP, which returns its features beside those of an early layer.

    Args:
        width: The part of the paper's channels.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        layers = MobileNetV2(num_classes=1, width_mult=width, round_nearest=1).features
        self.features = layers[:-1]  # not the convolution to 1280 channels
        for number, layer in enumerate(layers[_DILATED]):
            depthwise = layer.conv[1][0]
            depthwise.stride = (1, 1)
            # The first replaces the stride, the others look as far as they did after it.
            depthwise.dilation = depthwise.padding = (1, 1) if number == 0 else (2, 2)
        self.raspp = RASPP(self.features[-1].out_channels, scaled(_ASPP, width))

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, 24 + 128, H / 4, W / 4]`` at width 1."""
        x = low = images
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number == _LOW:
                low = x
        x = nn.functional.interpolate(
            self.raspp(x), low.shape[-2:], mode="bilinear", align_corners=False
        )
        return torch.cat([low, x], dim=1)


class RASPP(nn.Module):
    """The reduced ASPP: a 1×1 convolution, and one of the mean over the image.

    Args:
        inputs: Channels.
        outputs: Channels.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.local = _convolved(inputs, outputs, 1)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), _convolved(inputs, outputs, 1))
        self.dropout = nn.Dropout(0.1)
        self.project = _convolved(2 * outputs, outputs, 1)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inputs, h, w]`` to ``[B, outputs, h, w]``."""
        local = self.local(x)
        pooled = nn.functional.interpolate(
            self.pooled(x), x.shape[-2:], mode="nearest"
        )  # of one pixel
        result: Tensor = self.project(self.dropout(torch.cat([local, pooled], dim=1)))
        return result


class Decoder(nn.Module):
    """DeepLabv3+'s decoder with separable convolutions: a task's own part.

    Args:
        low: Channels of the early layer.
        channels: Of R-ASPP.
        reduced: What those of the early layer are reduced to.
        outputs: Of the task.
    """

    def __init__(self, low: int, channels: int, reduced: int, outputs: int) -> None:
        super().__init__()
        self._sizes = [low, channels]
        self.reduce = _convolved(low, reduced, 1)
        self.fuse = _separable(reduced + channels, channels)
        self.refine = _separable(channels, channels)
        self.logits = nn.Conv2d(channels, outputs, 1)
        initialize(self)
        nn.init.normal_(self.logits.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, low + channels, h, w]`` to ``[B, outputs, h, w]``."""
        low, x = x.split(self._sizes, dim=1)
        x = self.fuse(torch.cat([self.reduce(low), x], dim=1))
        result: Tensor = self.logits(self.refine(x))
        return result


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _convolved(inputs, inputs, 3, groups=inputs), _convolved(inputs, outputs, 1)
    )


def initialize(network: nn.Module) -> None:
    """Draw all convolutions from He's normal distribution, without biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def build(outputs: Mapping[str, int], width: float, *, pretrained: bool) -> Network:
    """Return the network; ``pretrained`` as in Appendix B.4."""
    create = partial(MobileNetV2RASPP, width)
    with torch.device("meta"):
        low = create().features[_LOW].out_channels
    sizes = (low, scaled(_ASPP, width), scaled(_REDUCED, width))
    decoders = {task: Decoder(*sizes, count) for task, count in outputs.items()}
    if pretrained:
        last = f"features.{_DILATED.stop}."
        return Network(
            loading(
                create, WEIGHTS, lambda n: n.startswith("features.") and not n.startswith(last)
            ),
            nn.ModuleDict(decoders),
        )
    return Network(create, nn.ModuleDict(decoders))
