"""Build a split network again from its checkpoint: ``split_from``, which knows LibMTL's models."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from libmtl_recon.errors import UsageError
from libmtl_recon.splitting.arguments import checked_module
from libmtl_recon.splitting.rebuild import given_checkpoint, rebuilt
from libmtl_recon.splitting.spec import SplitSpec

# The entry in a specification's origin that only LibMTL's models have.
BASE = "base"


def split_from(
    checkpoint: str | os.PathLike[str] | Mapping[str, Any], network: nn.Module
) -> nn.Module:
    """Split a network in place as the network of a checkpoint was split, and load the checkpoint.

    The split is read from the checkpoint: from the metadata of its state dict, or from
    ``FILE.split.json`` next to the file. Newer profiles have no effect.

    Args:
        checkpoint: A file written by ``torch.save``, or a state dict; in both cases the state dict
            may also be the entry ``model`` of a dict.
        network: An unsplit network of the same architecture: the module that was saved (it may
            also have been saved inside ``DataParallel``, ``torch.compile`` or an average of
            weights), or the part of it that was split, for which only its own values are loaded.
            For LibMTL's model this is the encoder; to restore the model itself, use
            ``--recon_from``. The network may be on any device.

    Returns:
        The network itself. Create the optimiser afterwards.

    Raises:
        UsageError: ``network`` is not a network, is split already, or is LibMTL's model.
        ReconError: The checkpoint cannot be read, does not record how it was split, or does not
            fit the network, which is then unchanged.

    Example:
        >>> import torch
        >>> from libmtl_recon import split_from, split_layers
        >>> split = split_layers(torch.nn.Linear(2, 1), ["(root)"], ["left", "right"])
        >>> again = split_from(split.state_dict(), torch.nn.Linear(2, 1))
        >>> x = torch.ones(3, 2)
        >>> torch.equal(again(x)["left"], split(x)["left"])
        True
    """
    network = checked_module(network, "network")
    if is_libmtls(network):
        raise UsageError(
            "network",
            "must not be LibMTL's model, whose architecture is chosen before it is built",
            type(network).__name__,
            "Have LibMTL build it with --arch Recon --recon_from FILE, or pass its encoder.",
        )
    found = given_checkpoint(checkpoint)
    of_libmtl = any(BASE in spec.origin for spec in found.splits.values())
    return rebuilt(found, network, part_only=of_libmtl)


def is_libmtls(network: nn.Module) -> bool:
    """Return whether a network is a model of LibMTL, if LibMTL is loaded at all."""
    architectures = sys.modules.get("LibMTL.architecture")
    return architectures is not None and isinstance(network, architectures.AbsArchitecture)


def base_of(spec: SplitSpec) -> str:
    """Return the architecture of LibMTL that was split."""
    return str(spec.origin.get(BASE, "HPS"))
