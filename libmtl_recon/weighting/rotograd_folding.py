"""Merge the rotations of a checkpoint into the first layers of the decoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from libmtl_recon.errors import ReconError
from libmtl_recon.weighting.rotation import Rotation, fold_rotation
from libmtl_recon.weighting.rotograd import RotoGrad

# Layers that commute with a rotation of channels: they are linear and the same for all channels.
# (Dropout is so in evaluation.)
_PASSED = (
    *(nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d, nn.Dropout3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
_OURS = ("rotograd.", "rotograd_leader.")


def fold_decoders(
    state: Mapping[str, Tensor], decoders: Mapping[str, nn.Module], rotograd: RotoGrad
) -> dict[str, Tensor]:
    """Return a model's state with the rotations merged into the decoders.

    Args:
        state: The model's ``state_dict()``, in which the decoders are under ``decoders``.
        decoders: The decoders by task.
        rotograd: The module with the rotations.

    Raises:
        ReconError: A decoder does not begin with a linear layer.
    """
    folded = {name: value for name, value in state.items() if not name.startswith(_OURS)}
    for task, decoder in decoders.items():
        if task not in rotograd.rotations:
            continue
        rotation: Any = rotograd.rotations[task]
        path, layer, flattened = _first_layer(task, decoder)
        channels = _channels(task, rotation, layer) if flattened else None
        merged = fold_rotation(layer, rotation.matrix(), channels=channels)
        name = ".".join(["decoders", task, *path, "weight"])
        folded[name] = merged.get_parameter("weight").detach()
    return folded


def _first_layer(task: str, decoder: nn.Module) -> tuple[list[str], nn.Module, bool]:
    """Return the path to the first other layer, the layer, and whether its input is flattened."""
    if not isinstance(decoder, nn.Sequential):
        return [], decoder, False
    flattened = False
    for name, child in decoder.named_children():
        if isinstance(child, _PASSED):
            flattened |= isinstance(child, nn.Flatten)
            continue
        path, layer, more = _first_layer(task, child)
        return [name, *path], layer, flattened or more
    raise ReconError(
        f"The rotation of task {task!r} cannot be merged into its decoder, which has no linear "
        "layer. Keep the rotation: load the checkpoint into a model with RotoGrad."
    )


def _channels(task: str, rotation: Rotation, layer: nn.Module) -> int | None:
    channels, dimensions = rotation.representation.tolist()
    if dimensions == 3 and getattr(layer, "in_features", channels) != channels:
        raise ReconError(
            f"The rotation of task {task!r} cannot be merged into its decoder, which flattens "
            "tokens. Keep the rotation: load the checkpoint into a model with RotoGrad."
        )
    return int(channels)
