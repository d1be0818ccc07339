"""Initialize the tasks' copies of a layer independently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from libmtl_recon.errors import UsageError
from libmtl_recon.splitting.task_specific import CHILD


def refuse_uninitializable(layers: Mapping[str, nn.Module]) -> None:
    """Refuse layers that cannot initialize their parameters again.

    Raises:
        UsageError: A layer has no ``reset_parameters``.
    """
    for name, owner in layers.items():
        if not callable(getattr(owner, "reset_parameters", None)):
            raise _refused(name, f"{type(owner).__name__} has none")


def reinitialize(name: str, layer: nn.Module) -> None:
    """Initialize a split layer again for each task, in order, from torch's generator.

    Args:
        name: The name of the layer, for the message.
        layer: The split layer.

    Raises:
        UsageError: Its ``reset_parameters`` also initialises values that stay shared.
    """
    inside = [
        parameter
        for key, child in layer.named_children()
        if key != CHILD
        for parameter in child.parameters()
    ]
    before = [parameter._version for parameter in inside]
    layer_: Any = layer
    layer_.reset_parameters()
    if [parameter._version for parameter in inside] != before:
        raise _refused(
            name, f"that of {type(layer).__name__} also initialises the modules inside it"
        )


def _refused(name: str, reason: str) -> UsageError:
    return UsageError(
        "init",
        "can be fresh only for layers with a reset_parameters that initialises their own "
        "parameters",
        name,
        f"Here {reason}. Let the copies start equal (copy), or leave this layer shared.",
    )
