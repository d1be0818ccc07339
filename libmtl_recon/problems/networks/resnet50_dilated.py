"""Dilated ResNet50 with a DeepLabv3 decoder per task, as in LibMTL's own example on NYUv2.

Yu, Koltun, Funkhouser: Dilated Residual Networks, 2017.
Chen et al.: Rethinking Atrous Convolution for Semantic Image Segmentation, 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights
from torchvision.models.resnet import Bottleneck
from torchvision.models.segmentation.deeplabv3 import ASPP

from libmtl_recon.problems.networks.imagenet import loading
from libmtl_recon.problems.networks.network import Network, scaled
from libmtl_recon.problems.networks.resnet import ScaledResNet

WEIGHTS = ResNet50_Weights.IMAGENET1K_V1
_WIDTH, _ASPP = 64, 256
_RATES = (12, 24, 36)


class ResNet50Dilated(ScaledResNet):
    """Torchvision's ResNet50 without its classifier, with output stride 8, of any width.

    The layers keep torchvision's names, which LibMTL's ``resnet_dilated`` has as well.

    Args:
        width: Channels of the first stage's 3×3 convolutions; it returns 32 times as many.
    """

    def __init__(self, width: int = _WIDTH) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), width, dilated=True)
        del self.avgpool
        self.feature_dim = 32 * width  # which LibMTL's architecture MTAN reads
        self.initialize()

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, 2048, H / 8, W / 8]`` at width 64."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        result: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return result


def build(outputs: Mapping[str, int], width: float, *, pretrained: bool) -> Network:
    """Return the network; LibMTL's example uses it ``pretrained``."""
    first, channels = scaled(_WIDTH, width), scaled(_ASPP, width)
    decoders = {
        task: nn.Sequential(
            ASPP(32 * first, _RATES, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, count, 1),
        )
        for task, count in outputs.items()
    }
    create = partial(ResNet50Dilated, first)
    if pretrained:
        return Network(
            loading(create, WEIGHTS, lambda n: not n.startswith("fc.")), nn.ModuleDict(decoders)
        )
    return Network(create, nn.ModuleDict(decoders))
