"""ResNet18 for classification: of Multi-Fashion+MNIST, and of the 40 attributes of CelebA.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2016.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn
from torchvision.models import ResNet18_Weights
from torchvision.models.resnet import BasicBlock

from libmtl_recon.problems.networks.imagenet import loading
from libmtl_recon.problems.networks.network import Network, scaled
from libmtl_recon.problems.networks.resnet import ScaledResNet

FEATURES = 100  # of the last shared layer for Multi-Fashion+MNIST (Appendix B.1)
_WIDTH = 64
_CELLS = 2  # per side, that images of 64×64 pixels are reduced to
WEIGHTS = ResNet18_Weights.IMAGENET1K_V1


class ResNet18(ScaledResNet):
    """Torchvision's ResNet18, of any width, without its classifier.

    The layers keep torchvision's names.

    Args:
        width: Channels of the first stage; each further stage has twice as many.
        channels: Of an image.
        features: Of the last layer, ``fc``, after the mean over the image, as for
            Multi-Fashion+MNIST (Appendix B.1). None: there is no such layer, and the features are
            those of 2×2 parts of the image, 2048 at width 64, as for CelebA; images of 64×64
            pixels are just so many.
    """

    def __init__(
        self, width: int = _WIDTH, *, channels: int = 1, features: int | None = FEATURES
    ) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), width, channels=channels)
        if features is None:
            self.avgpool = nn.AdaptiveAvgPool2d(_CELLS)
        self.fc = nn.Identity() if features is None else nn.Linear(8 * width, features)
        self.initialize()


def build(outputs: Mapping[str, int], width: float, *, pretrained: bool) -> Network:
    """Return the network for CelebA; ``pretrained`` as in Appendix B.5."""
    first = scaled(_WIDTH, width)
    features = 8 * first * _CELLS**2
    heads = {task: nn.Linear(features, count) for task, count in outputs.items()}
    create = partial(ResNet18, first, channels=3, features=None)
    if pretrained:
        return Network(
            loading(create, WEIGHTS, lambda n: not n.startswith("fc.")), nn.ModuleDict(heads)
        )
    return Network(create, nn.ModuleDict(heads))
