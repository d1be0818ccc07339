"""The layers that the tasks of a LibMTL model share, and their columns in a gradient row."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from libmtl_recon.conflicts.layers import Layer, layers_of, owned_parameters
from libmtl_recon.errors import ReconError
from libmtl_recon.gradients import columns

# Their tasks have one network each, all of which LibMTL counts as shared.
COLUMNS = ("Cross_stitch", "LTB")


def shared_layers(model: nn.Module) -> tuple[tuple[Layer, ...], Tensor | None]:
    """Return the layers of the shared parameters, and their columns in a gradient row.

    The columns are None if the rows consist of exactly the layers' parameters, in their order.

    Raises:
        ReconError: The architecture shares no layers.
    """
    architecture = type(model).__bases__[0].__name__
    if architecture in COLUMNS:
        raise ReconError(
            f"--arch {architecture} cannot be scored: in it each task has its own network by "
            "construction, so there is no layer in which the gradients of two tasks could meet. "
            "Score with --arch HPS."
        )
    shared = list(model.get_share_params())  # type: ignore[operator]  # LibMTL's method
    root = sharing_root(model, shared)
    layers = layers_of(root, shared)
    ordered = [p for _, _, parameters in owned_parameters(root, shared) for p in parameters]
    if [id(p) for p in shared] == [id(p) for p in ordered]:
        return layers, None
    start, spans = 0, {}
    for parameter in shared:
        end = start + columns.width(parameter)
        spans[id(parameter)] = torch.arange(start, end)
        start = end
    if not ordered:
        return (), None
    places = torch.cat([spans[id(p)] for p in ordered])
    return layers, places.to(ordered[0].device)


def parameters_of(model: Any) -> list[tuple[tuple[int, ...], bool]]:
    """Return each shared parameter's shape, and whether it is trained."""
    return [(tuple(p.shape), p.requires_grad) for p in model.get_share_params()]


def layers_at(model: Any, places: Sequence[bool]) -> list[str]:
    """Return the layers that hold the chosen shared parameters."""
    shared = list(model.get_share_params())
    wanted = {id(p) for p, chosen in zip(shared, places, strict=True) if chosen}
    found = owned_parameters(sharing_root(model, shared), shared)
    return [name for name, _, own in found if any(id(p) in wanted for p in own)]


def sharing_root(model: nn.Module, shared: Collection[nn.Parameter]) -> nn.Module:
    """Return the module that layers' names are relative to: the model's encoder, or the model.

    Args:
        model: LibMTL's model.
        shared: Its shared parameters. If its ``encoder`` holds them all, names are relative to it,
            and so the same as in the encoder alone.
    """
    encoder: nn.Module | None = getattr(model, "encoder", None)
    if encoder is None:
        return model
    held = {id(parameter) for parameter in encoder.parameters()}
    return encoder if all(id(parameter) in held for parameter in shared) else model
