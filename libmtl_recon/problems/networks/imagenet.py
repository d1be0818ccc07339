"""Torchvision's ImageNet weights for the encoders, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.splitting.torch_files import read_saved, state_dict_in


def refuse_pretrained(network: str, reason: str) -> None:
    """Refuse ImageNet weights for a network that the papers train without any.

    Raises:
        UsageError: Always.
    """
    raise UsageError(
        "pretrained",
        f"cannot be combined with {network}",
        True,
        f"{reason} Leave `pretrained` out.",
    )


def read_weights(weights: WeightsEnum) -> Mapping[str, Tensor]:
    """Return torchvision's weights, from torch.hub's folder or, once, downloaded to it.

    Raises:
        ReconError: They are not there and cannot be downloaded, or the file is damaged.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(weights.url).path).name)
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # The end of the name is the beginning of the file's SHA-256.
            torch.hub.download_url_to_file(
                weights.url, str(file), file.stem.rpartition("-")[2], progress=False
            )
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ReconError(
                f"The ImageNet weights could not be downloaded from {weights.url} ({reason}). "
                f"Download that file elsewhere and save it as {file}, or leave out `pretrained` "
                f"to start from random weights. The environment variable TORCH_HOME can name "
                f"another folder, which contains hub/checkpoints/{file.name}."
            ) from error
    source = f"The file of the ImageNet weights, {file},"
    return state_dict_in(source, read_saved(source, file))


def loading(
    create: Callable[[], nn.Module], weights: WeightsEnum, used: Callable[[str], bool]
) -> Callable[[], nn.Module]:
    """Return a function that creates a network with torchvision's weights, which are read now.

    Args:
        create: Creates the network with random weights.
        weights: Torchvision's.
        used: Whether the network has a parameter or buffer of that name of torchvision's network.

    Raises:
        ReconError: As for :func:`read_weights`.
    """
    values = {name: value for name, value in read_weights(weights).items() if used(name)}

    def load() -> nn.Module:
        network = create()
        try:
            unknown = network.load_state_dict(values, strict=False).unexpected_keys
        except RuntimeError as error:  # of another shape
            raise _misfit(weights, "their shapes differ") from error
        wanted = [name for name in network.state_dict() if used(name)]
        # Files of before 2018 lack the counters of the batch norms.
        missing = [n for n in wanted if n not in values and not n.endswith("num_batches_tracked")]
        if unknown or missing:
            raise _misfit(weights, f"of {[*unknown, *missing][0]} only one of the two has a value")
        return network

    return load


def _misfit(weights: WeightsEnum, reason: str) -> ReconError:
    return ReconError(
        f"The ImageNet weights in torch.hub's folder do not fit the network: {reason}. Remove the "
        f"file, so that it is downloaded anew from {weights.url}, or leave out `pretrained`."
    )
