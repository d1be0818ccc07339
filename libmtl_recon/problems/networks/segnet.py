"""SegNet, whose decoder the tasks share but for a convolutional head each.

The network of Recon's experiments on CityScapes (Appendix B.2): SegNet's encoder, which is that of
VGG16 with batch norms, and its decoder, which is the encoder's mirror image and unpools to where
the maxima were. Of the decoder's last stage, each task has its own two convolutions. The layers
have the names that the Recon authors' published rankings use.

Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture for
Image Segmentation, 2017.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from libmtl_recon.errors import ReconError
from libmtl_recon.problems.networks.imagenet import refuse_pretrained
from libmtl_recon.problems.networks.network import Network, scaled

CHANNELS = (64, 128, 256, 512, 512)  # of the five stages
_SMALLEST = 2 ** len(CHANNELS)


class Stages(NamedTuple):
    """The features of the five stages of SegNet, from the largest images to the smallest.

    Attributes:
        first: After a stage's first block of the encoder.
        encoded: After all blocks of the stage, before they are pooled.
        unpooled: What enters a stage of the decoder.
        decoded: What leaves it.
    """

    first: list[Tensor]
    encoded: list[Tensor]
    unpooled: list[Tensor]
    decoded: list[Tensor]


class SegNet(nn.Module):
    """SegNet's encoder and decoder, which all tasks share.

    Args:
        width: The part of the paper's channels.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        self.channels = tuple(scaled(channels, width) for channels in CHANNELS)
        # What a stage of the decoder returns: the channels of the stage above it.
        above = (self.channels[0], *self.channels[:-1])
        self.encoder_block = nn.ModuleList(map(convolved, (3, *self.channels[:-1]), self.channels))
        self.decoder_block = nn.ModuleList(map(convolved, self.channels, above))
        self.conv_block_enc = nn.ModuleList(map(_rest, self.channels, range(len(CHANNELS))))
        self.conv_block_dec = nn.ModuleList(map(_rest, above, range(len(CHANNELS))))
        initialize(self)

    def stages(self, images: Tensor) -> Stages:
        """Return the features of ``[B, 3, H, W]`` in each stage; H and W are 32 or more.

        Raises:
            ReconError: The images are smaller.
        """
        height, width = images.shape[-2:]
        if min(height, width) < _SMALLEST:
            raise ReconError(
                f"SegNet halves an image five times, so {height}×{width} pixels are too few: "
                f"images must have at least {_SMALLEST}×{_SMALLEST}."
            )
        first, encoded, places = [], [], []
        x = images
        for block, rest in zip(self.encoder_block, self.conv_block_enc, strict=True):
            first.append(block(x))
            encoded.append(rest(first[-1]))
            x, place = nn.functional.max_pool2d(encoded[-1], 2, return_indices=True)
            places.append(place)
        unpooled, decoded = [], []
        for stage in reversed(range(len(CHANNELS))):
            size = list(encoded[stage].shape[-2:])
            unpooled.append(nn.functional.max_unpool2d(x, places[stage], [2, 2], output_size=size))
            x = self.conv_block_dec[stage](self.decoder_block[stage](unpooled[-1]))
            decoded.append(x)
        return Stages(first, encoded, unpooled[::-1], decoded[::-1])

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[B, 3, H, W]`` to ``[B, 64, H, W]`` (at width 1); H and W are 32 or more."""
        return self.stages(images).decoded[0]


def convolved(inputs: int, outputs: int) -> nn.Sequential:
    """Return a 3×3 convolution with a batch norm and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(inputs, outputs, 3, padding=1),
            bn1=nn.BatchNorm2d(outputs),
            relu1=nn.ReLU(inplace=True),
        )
    )


def _rest(channels: int, stage: int) -> nn.Sequential:
    """Return the blocks after a stage's first: one in the first two stages, else two."""
    if stage < 2:
        return convolved(channels, channels)
    return nn.Sequential(convolved(channels, channels), convolved(channels, channels))


def initialize(network: nn.Module) -> None:
    """Draw all convolutions from Xavier's normal distribution, without biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def heads(outputs: Mapping[str, int], width: float) -> nn.ModuleDict:
    """Return each task's own part, a 3×3 and a 1×1 convolution, for its number of outputs."""
    channels = scaled(CHANNELS[0], width)
    made = nn.ModuleDict({task: _head(channels, count) for task, count in outputs.items()})
    initialize(made)
    return made


def _head(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, channels, 3, padding=1),
            conv2=nn.Conv2d(channels, outputs, 1),
        )
    )


def build(outputs: Mapping[str, int], width: float, *, pretrained: bool) -> Network:
    """Return the network; ``pretrained`` is refused.

    Raises:
        UsageError: It is ``pretrained``.
    """
    if pretrained:
        refuse_pretrained("segnet", "The papers train it from random weights.")
    return Network(partial(SegNet, width), heads(outputs, width))
