"""What a layer is: a module that holds parameters of its own, named by its path."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Layer:
    """A module's own parameters: weight and bias together, batch norm apart from convolution.

    Attributes:
        name: The module's path, e.g. ``layer1.0.bn1``; empty for the root module itself.
        type: The module's class name.
        shapes: The shapes of its own trainable parameters, in order.
    """

    name: str
    type: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def parameters(self) -> int:
        """How many numbers the layer has."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def title(self) -> str:
        """The name as it is shown."""
        return self.name or "(root)"


def layers_of(module: nn.Module) -> tuple[Layer, ...]:
    """The layers of a network, in network order.

    Frozen parameters do not count, and a parameter that several modules hold counts for the
    first of them.

    Example:
        >>> from torch import nn
        >>> [layer.name for layer in layers_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
        ['0']
    """
    found = []
    for name, owner, parameters in owned_parameters(module):
        shapes = tuple(tuple(p.shape) for p in parameters)
        found.append(Layer(name, _plain_type(owner), shapes))
    return tuple(found)


def owned_parameters(
    module: nn.Module,
) -> list[tuple[str, nn.Module, list[nn.Parameter]]]:
    """Each layer's name, module and trainable parameters, in network order."""
    seen: set[int] = set()
    found = []
    for name, owner in module.named_modules():
        own = [p for p in owner._parameters.values() if p is not None and p.requires_grad]
        fresh = [p for p in own if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if fresh:
            found.append((name, owner, fresh))
    return found


def _plain_type(module: nn.Module) -> str:
    return type(module).__name__
