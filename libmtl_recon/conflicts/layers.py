"""What a layer is: a module that holds parameters of its own, named by its path."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from libmtl_recon.module_names import COMPILED, ROOT, layer_name, plain_name

if TYPE_CHECKING:
    from torch import nn


__all__ = [
    "COMPILED",
    "ROOT",
    "Layer",
    "layer_name",
    "layers_of",
    "owned_parameters",
    "plain_name",
]


@dataclass(frozen=True)
class Layer:
    """A module's own parameters: weight and bias together, batch norm apart from convolution.

    Attributes:
        name: The module's path, e.g. ``layer1.0.bn1``; ``(root)`` for the network itself, also
            where its path, which is empty, is given.
        type: The module's class name.
        shapes: The shapes of its own trainable parameters, in order; that of a complex one with a
            last axis of 2, for the real and the imaginary part.
    """

    name: str
    type: str
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", layer_name(self.name))

    @property
    def parameters(self) -> int:
        """How many numbers the layer has."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def title(self) -> str:
        """The name as it is shown, which is that by which it is chosen."""
        return self.name


def layers_of(
    module: nn.Module, shared: Collection[nn.Parameter] | None = None
) -> tuple[Layer, ...]:
    """The layers of a network, in network order.

    Frozen parameters do not count, and a parameter that several modules hold counts for the
    first of them.

    Args:
        module: The network.
        shared: Leave only the layers whose parameters are all among these.

    Example:
        >>> from torch import nn
        >>> [layer.name for layer in layers_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
        ['0']
    """
    found = []
    for name, owner, parameters in owned_parameters(module, shared):
        shapes = tuple((*p.shape, 2) if p.is_complex() else tuple(p.shape) for p in parameters)
        found.append(Layer(name, _plain_type(owner), shapes))
    return tuple(found)


def owned_parameters(
    module: nn.Module, shared: Collection[nn.Parameter] | None = None
) -> list[tuple[str, nn.Module, list[nn.Parameter]]]:
    """Each layer's name, module and trainable parameters, in network order.

    Args:
        module: The network.
        shared: Leave only the layers whose parameters are all among these.
    """
    wanted = None if shared is None else {id(parameter) for parameter in shared}
    seen: set[int] = set()
    found = []
    for path, owner in module.named_modules():
        own = [p for p in owner._parameters.values() if p is not None and p.requires_grad]
        fresh = [p for p in own if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if fresh and (wanted is None or all(id(p) in wanted for p in own)):
            found.append((layer_name(plain_name(path)), owner, fresh))
    return found


def _plain_type(module: nn.Module) -> str:
    # A split module's class is derived from the one that it had.
    plain: type = getattr(type(module), "_plain_class", type(module))
    return plain.__name__
