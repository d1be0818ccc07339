"""Some of LibMTL's architectures take a ResNet apart, by the names of its parts.

Given another network, they end in an AttributeError that names a part, or something that LibMTL
tried after that. Which network it is, only its constructor can tell: it is looked at as soon as
it is built.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from libmtl_recon.errors import UsageError
from libmtl_recon.integrations.libmtl.known_sources import BOTH, MAIN, is_one_of
from libmtl_recon.integrations.libmtl.recon import base_class
from libmtl_recon.integrations.libmtl.wrapper import Call

_PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
# LibMTL's architectures that take one apart, by its versions, and those that look for it inside.
_OF_RESNETS = {"Cross_stitch": BOTH, "LTB": MAIN, "MTAN": BOTH, "PLE": BOTH}
_OF_WRAPPED = {"MTAN": BOTH}
# Where MTAN looks for the ResNet in an encoder that has more around it.
_INSIDE = "resnet_network"
# By this MTAN tells the two kinds of ResNets from each other.
_WIDTH = "feature_dim"
# Under which a function that checks an encoder keeps the script's own class.
_CHECKS = "_libmtl_recon_checks"


def check_encoder(call: Call) -> None:
    """Have the encoder that a Trainer is about to build looked at."""
    given = call.arguments
    base = base_class(given["architecture"], given["kwargs"]["arch_args"])
    given["encoder_class"] = checked_encoder_class(base, given["encoder_class"])


def give_back_encoder_class(call: Call) -> None:
    """Have a model know its script's own encoder class, of which some make further networks."""
    checked = call.arguments["encoder_class"]
    if _CHECKS in getattr(checked, "__dict__", {}):
        call.owner.model.encoder_class = vars(checked)[_CHECKS]


def checked_encoder_class(architecture: Any, encoder_class: Any) -> Callable[..., nn.Module]:
    """What builds the encoder, and refuses one that the architecture cannot take apart.

    Args:
        architecture: The architecture's class.
        encoder_class: The script's; returned as it is where any encoder will do.
    """
    if not is_one_of(architecture, _OF_RESNETS):
        build: Callable[..., nn.Module] = encoder_class
        return build
    wrapped = is_one_of(architecture, _OF_WRAPPED)

    @functools.wraps(encoder_class, updated=())
    def build_checked(*args: Any, **kwargs: Any) -> nn.Module:
        encoder: nn.Module = encoder_class(*args, **kwargs)
        refuse_encoder(architecture.__name__, encoder, wrapped=wrapped)
        return encoder

    vars(build_checked)[_CHECKS] = encoder_class
    return build_checked


def refuse_encoder(architecture: str, encoder: nn.Module, *, wrapped: bool) -> None:
    """Refuse an encoder that is no ResNet.

    Args:
        architecture: The architecture's name.
        encoder: The encoder.
        wrapped: The architecture also takes a network that holds a ResNet as ``resnet_network``,
            and wants to know its width.

    Raises:
        UsageError: It is none, and holds none if that would do.
    """
    inside = getattr(encoder, _INSIDE, None)
    # As MTAN decides.
    resnet = (
        inside if wrapped and inside is not None and not hasattr(encoder, "layer1") else encoder
    )
    wanted = (*_PARTS, _WIDTH) if wrapped else _PARTS
    missing = [name for name in wanted if not hasattr(resnet, name)]
    if not missing:
        return
    or_inside = f", or hold one as `{_INSIDE}`" if wrapped else ""
    raise UsageError(
        "encoder_class",
        f"must be a ResNet in LibMTL's manner for --arch {architecture}, which takes it apart by "
        f"the names of its parts ({', '.join(wanted)}){or_inside}",
        f"{type(encoder).__name__} without {', '.join(missing)}",
        "HPS, MMoE, CGC and DSelect_k take any encoder.",
    )
