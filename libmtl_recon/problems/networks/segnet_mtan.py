"""MTAN: SegNet with attention modules of each task, in its encoder and in its decoder.

The network of Recon's experiments on NYUv2 (Appendix B.3). In each stage, a task multiplies the
shared features with a mask, which it makes of these features and of what it kept of the stage
before. The convolution after a mask, which fits the channels to the next stage, is shared. The
layers that tasks share have the names that the Recon authors' published ranking uses.

Liu, Johns, Davison: End-to-End Multi-Task Learning with Attention, 2019.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.problems.networks.imagenet import refuse_pretrained
from libmtl_recon.problems.networks.network import Network
from libmtl_recon.problems.networks.segnet import (
    CHANNELS,
    SegNet,
    Stages,
    convolved,
    heads,
    initialize,
)


class SegNetMTAN(SegNet):
    """SegNet and the attention modules of all tasks; returns a list with each task's features.

    Args:
        tasks: Their names, in the order of the list.
        width: The part of the paper's channels.
    """

    def __init__(self, tasks: Iterable[str], width: float = 1.0) -> None:
        super().__init__(width)
        channels = self.channels
        above = (channels[0], *channels[:-1])
        # A mask is made of a stage's shared features and what its task kept of the stage before.
        entering = (channels[0], *(2 * count for count in channels[1:]))
        joined = [one + other for one, other in zip(channels, above, strict=True)]
        tasks = list(tasks)
        self.encoder_att = nn.ModuleDict({t: _masks(entering, channels) for t in tasks})
        self.decoder_att = nn.ModuleDict({t: _masks(joined, above) for t in tasks})
        self.encoder_block_att = nn.ModuleList(
            convolved(*pair) for pair in pairwise((*channels, channels[-1]))
        )
        self.decoder_block_att = nn.ModuleList(map(convolved, channels, above))
        for added in (self.encoder_att, self.decoder_att):
            initialize(added)
        for blocks in (self.encoder_block_att, self.decoder_block_att):
            initialize(blocks)

    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]  # LibMTL's list
        """Map ``[B, 3, H, W]`` to ``[B, 64, H, W]`` for each task; H and W are 32 or more."""
        stages = self.stages(images)
        masks = zip(self.encoder_att.values(), self.decoder_att.values(), strict=True)
        return [self._attend(stages, *own) for own in masks]

    def _attend(self, stages: Stages, down: Any, up: Any) -> Tensor:
        """Return what one task's masks, in lists of modules, leave of the shared features."""
        kept: list[Tensor] = []  # of the stage before; nothing in the first
        for stage, block in enumerate(self.encoder_block_att):
            mask = down[stage](torch.cat([stages.first[stage], *kept], dim=1))
            kept = [nn.functional.max_pool2d(block(mask * stages.encoded[stage]), 2)]
        (x,) = kept
        for stage in reversed(range(len(CHANNELS))):
            unpooled = stages.unpooled[stage]
            # Twice as large, or a pixel more where the pooled image had an odd size.
            size = unpooled.shape[-2:]
            x = nn.functional.interpolate(x, size, mode="bilinear", align_corners=True)
            x = torch.cat([unpooled, self.decoder_block_att[stage](x)], dim=1)
            x = up[stage](x) * stages.decoded[stage]
        return x


def _masks(inputs: Iterable[int], outputs: Iterable[int]) -> nn.ModuleList:
    """Return a task's attention modules, one per stage."""
    return nn.ModuleList(map(_mask, inputs, outputs))


def _mask(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(inputs, outputs, 1),
            bn1=nn.BatchNorm2d(outputs),
            relu1=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(outputs, outputs, 1),
            bn2=nn.BatchNorm2d(outputs),
            sigmoid2=nn.Sigmoid(),
        )
    )


def build(outputs: Mapping[str, int], width: float, *, pretrained: bool) -> Network:
    """Return the network; ``pretrained`` is refused.

    Raises:
        UsageError: It is ``pretrained``.
    """
    if pretrained:
        refuse_pretrained("segnet_mtan", "The papers train it from random weights.")
    return Network(partial(SegNetMTAN, tuple(outputs), width), heads(outputs, width))
