"""Check encoders for LibMTL's architectures that access the parts of a ResNet by name.

With another network, they fail with an AttributeError that names a part, or with a follow-up error
of LibMTL. Only the constructor determines which network it is: it is checked as soon as it is
built.
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
# LibMTL's architectures that access its parts, by version, and those that search for it inside.
_OF_RESNETS = {"Cross_stitch": BOTH, "LTB": MAIN, "MTAN": BOTH, "PLE": BOTH}
_OF_WRAPPED = {"MTAN": BOTH}
# Where MTAN searches for the ResNet in an encoder that wraps it.
_INSIDE = "resnet_network"
# MTAN distinguishes the two kinds of ResNets by this.
_WIDTH = "feature_dim"
# The attribute under which a function that checks an encoder keeps the script's own class.
_CHECKS = "_libmtl_recon_checks"


def check_encoder(call: Call) -> None:
    """Make the encoder that a Trainer is about to build be checked."""
    given = call.arguments
    base = base_class(given["architecture"], given["kwargs"]["arch_args"])
    given["encoder_class"] = checked_encoder_class(base, given["encoder_class"])


def give_back_encoder_class(call: Call) -> None:
    """Give a model its script's own encoder class, from which some build further networks."""
    checked = call.arguments["encoder_class"]
    if _CHECKS in getattr(checked, "__dict__", {}):
        call.owner.model.encoder_class = vars(checked)[_CHECKS]


def checked_encoder_class(architecture: Any, encoder_class: Any) -> Callable[..., nn.Module]:
    """Return a function that builds the encoder, and refuses one of an unsuitable kind.

    Args:
        architecture: The architecture's class.
        encoder_class: The script's; returned unchanged if the architecture takes any encoder.
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
    """Refuse an encoder that is not a ResNet.

    Args:
        architecture: The architecture's name.
        encoder: The encoder.
        wrapped: The architecture also takes a network that holds a ResNet as ``resnet_network``,
            and needs its width.

    Raises:
        UsageError: It is not a ResNet, and holds none where that would suffice.
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
        f"must be a ResNet like LibMTL's for --arch {architecture}, which uses its parts by their "
        f"names ({', '.join(wanted)}){or_inside}",
        f"{type(encoder).__name__} without {', '.join(missing)}",
        "HPS accepts any encoder; MMoE, CGC and DSelect_k any that returns one tensor.",
    )
