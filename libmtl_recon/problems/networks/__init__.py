"""The networks of the papers' experiments on images, as arguments of LibMTL's Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from libmtl_recon.errors import UsageError
from libmtl_recon.problems.networks import (
    mobilenetv2_raspp,
    resnet18,
    resnet50_dilated,
    segnet,
    segnet_mtan,
)
from libmtl_recon.problems.networks.network import Network

NETWORKS = {
    "segnet": "SegNet with a convolutional head per task; Recon's on CityScapes",
    "segnet_mtan": "SegNet with attention modules per task (MTAN); Recon's on NYUv2",
    "resnet18": "ResNet18 with a linear layer per task; Recon's on CelebA",
    "mobilenetv2_raspp": "MobileNetV2 with R-ASPP; Recon's on PASCAL-Context",
    "resnet50_dilated": "dilated ResNet50 with a DeepLabv3 decoder per task; LibMTL's on NYUv2",
}
WIDEST = 16  # times the paper's channels; SegNet then has 30 GB of parameters
_BUILD: Mapping[str, Callable[..., Network]] = {
    "segnet": segnet.build,
    "segnet_mtan": segnet_mtan.build,
    "resnet18": resnet18.build,
    "mobilenetv2_raspp": mobilenetv2_raspp.build,
    "resnet50_dilated": resnet50_dilated.build,
}


def build(
    network: str, outputs: Mapping[str, int], *, pretrained: bool = False, width: float = 1.0
) -> Network:
    """Build a network for RGB images ``[B, 3, H, W]``.

    Args:
        network: One of :data:`NETWORKS`.
        outputs: Per task, the channels of its output, ``[B, channels, h, w]``; for ``resnet18``
            the length of its vector, ``[B, length]`` (2 for each attribute of CelebA, as in the
            paper).
        pretrained: Whether the encoder starts with torchvision's ImageNet weights.
        width: The part of the paper's channels that each layer has, at least one: less than 1 for
            a first try on a CPU.

    Returns:
        Its encoder and decoders. ``h`` and ``w`` are ``H`` and ``W`` with SegNet, a quarter of them
        with MobileNetV2, an eighth with ResNet50.

    Raises:
        UsageError: An argument is not one of these, or the network has no pretrained weights.
        ReconError: The pretrained weights are neither there nor can they be downloaded.
    """
    if network not in NETWORKS:
        known = ", ".join(NETWORKS)
        raise UsageError("network", f"must be one of {known}", network, "Choose one of them.")
    if not outputs or any(type(n) is not int or n < 1 for n in outputs.values()):
        raise UsageError(
            "outputs",
            "must have a whole number of at least 1 for each task",
            dict(outputs),
            "Give the channels of each task's output.",
        )
    if isinstance(width, bool) or not (0 < width <= WIDEST):
        rule = f"must be a number above 0, and at most {WIDEST}"
        raise UsageError("width", rule, width, "1 has the channels of the paper.")
    if pretrained and width != 1:
        raise UsageError(
            "width",
            "must be 1 with `pretrained`, whose layers have the channels of the paper",
            width,
            "Leave out one of the two.",
        )
    return _BUILD[network](dict(outputs), width, pretrained=pretrained)


__all__ = ["NETWORKS", "Network", "build"]
