"""The layers of a network: modules with their own parameters, named by their paths."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
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

# `LayerNorm2d`, `LlamaRMSNorm` and `BatchNormalization`, but not `NormalHead` or `NormedLinear`,
# and no layer whose weights are normalised.
_NORM = re.compile(r"(?i:(?<!weight)(?<!spectral)norm(?:ali[sz]ation)?)(?![a-z])")
# General classes of torch.nn, from which a class may be derived whatever it computes.
_GENERAL = ("Module", "Sequential", "ModuleList", "ModuleDict")


@dataclass(frozen=True)
class Layer:
    """A module's own parameters: weight and bias together, batch norm apart from convolution.

    Attributes:
        name: The module's path, e.g. ``layer1.0.bn1``; ``(root)`` for the network itself, whose
            path is empty.
        type: The module's class name.
        shapes: The shapes of its own trainable parameters, in order; the shape of a complex one has
            a last axis of 2, for the real and the imaginary part.
        norm: Whether it is a normalisation layer, such as a batch, layer or group norm. If None is
            given, it is determined from the class name, see :func:`named_norm`. It is ignored when
            layers are compared.
    """

    name: str
    type: str
    shapes: tuple[tuple[int, ...], ...]
    norm: bool | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", layer_name(self.name))
        if self.norm is None:
            object.__setattr__(self, "norm", named_norm(self.type))

    @property
    def parameters(self) -> int:
        """The number of the layer's parameters."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def title(self) -> str:
        """The name shown to users, with which the layer is also selected."""
        return self.name


def named_norm(type: str) -> bool:
    """Return whether a class is a normalisation layer by its name.

    It is if the name contains ``Norm`` or ``Normalization``, in upper or lower case, as in
    ``BatchNorm2d`` or ``LlamaRMSNorm``; ``Normal…``, ``Normed…`` and norms of weights are not.
    """
    return _NORM.search(type) is not None


def layers_of(
    module: nn.Module, shared: Collection[nn.Parameter] | None = None
) -> tuple[Layer, ...]:
    """Return the layers of a network, in network order.

    Frozen parameters do not count, and a parameter that several modules hold counts for the
    first of them.

    Args:
        module: The network.
        shared: Return only layers whose parameters are all among these.

    Example:
        >>> from torch import nn
        >>> [layer.name for layer in layers_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))]
        ['0']
    """
    return tuple(layer_of(*one) for one in owned_parameters(module, shared))


def layer_of(name: str, owner: nn.Module, parameters: Sequence[nn.Parameter]) -> Layer:
    """Return the layer of a module.

    Args:
        name: The layer's name.
        owner: The module.
        parameters: The module's own parameters that count.
    """
    shapes = tuple((*p.shape, 2) if p.is_complex() else tuple(p.shape) for p in parameters)
    plain = _plain_class(owner)
    return Layer(name, plain.__name__, shapes, _normalizes(plain))


def owned_parameters(
    module: nn.Module,
    shared: Collection[nn.Parameter] | None = None,
    *,
    frozen: bool = False,
) -> list[tuple[str, nn.Module, list[nn.Parameter]]]:
    """Return each layer's name, module and trainable parameters, in network order.

    Args:
        module: The network.
        shared: Leave only the layers whose parameters are all among these.
        frozen: Return the frozen parameters as well.
    """
    wanted = None if shared is None else {id(parameter) for parameter in shared}
    seen: set[int] = set()
    found = []
    for path, owner in module.named_modules():
        own = [
            p for p in owner._parameters.values() if p is not None and (frozen or p.requires_grad)
        ]
        fresh = [p for p in own if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if fresh and (wanted is None or all(id(p) in wanted for p in own)):
            found.append((layer_name(plain_name(path)), owner, fresh))
    return found


def _plain_class(module: nn.Module) -> type[nn.Module]:
    # A split module's class is derived from the original one.
    plain: type[nn.Module] = getattr(type(module), "_plain_class", type(module))
    return plain


def _normalizes(module: type[nn.Module]) -> bool:
    """Return whether a class is a normalisation layer, by the PyTorch class it derives from."""
    for base in module.__mro__:
        if base.__module__.startswith("torch.nn.modules.") and base.__name__ not in _GENERAL:
            return named_norm(base.__name__)
    return named_norm(module.__name__)
