"""Operations of a weight and inputs, classified by the formula of the weight's gradient.

They are derived from modules, or from nodes of the autograd graph; the code that computes with them
needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Kind(Enum):
    """The kind of an operation. Gradients of one weight from two kinds cannot be combined."""

    LINEAR = auto()  # x @ weight.T
    MATRIX = auto()  # x @ weight
    CONVOLUTION = auto()
    TRANSPOSED = auto()
    EMBEDDING = auto()


@dataclass(frozen=True)
class Operation:
    """One operation and its parameters.

    Attributes:
        kind: The kind of the operation.
        weight: The leaf that it uses.
        bias: The bias ``[b]``, added along the channels; None if there is none that is a leaf.
        stride: The stride of a convolution along each axis.
        dilation: The dilation of a convolution along each axis.
        padding: The padding on both sides of each axis, the last axis first, as for ``pad``.
        padding_mode: The mode of ``pad``.
        groups: The number of groups of a convolution.
        padding_index: The row of an embedding that gets no gradient.
        by_frequency: Whether an embedding's gradients are divided by the frequency of its rows.
    """

    kind: Kind
    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    padding_mode: str = "constant"
    groups: int = 1
    padding_index: int | None = None
    by_frequency: bool = False

    @property
    def kernel(self) -> tuple[int, ...]:
        """The size of a convolution's kernel."""
        return tuple(self.weight.shape[2:])

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that require a gradient, the weight first."""
        both = (self.weight, self.bias)
        return [p for p in both if p is not None and p.requires_grad]

    @property
    def channels(self) -> int:
        """The axis of the output along which the bias is added."""
        return 1 if self.kind in (Kind.CONVOLUTION, Kind.TRANSPOSED) else -1

    def sides(self) -> tuple[int, int]:
        """Return the sizes a and b of the weight's two sides, inputs and outputs, per group."""
        first, *rest = self.weight.shape
        match self.kind:
            case Kind.LINEAR | Kind.CONVOLUTION:
                return prod(rest), first // self.groups
            case Kind.TRANSPOSED:
                return first // self.groups, prod(rest)
            case _:
                return first, prod(rest)

    def positions(self, inputs: torch.Size, outputs: torch.Size) -> int:
        """Return the number of positions at which the weight is applied, for these shapes."""
        match self.kind:
            case Kind.LINEAR | Kind.MATRIX:
                return inputs[:-1].numel()
            case Kind.CONVOLUTION:
                return outputs[0] * outputs[2:].numel()
            case Kind.TRANSPOSED:
                return inputs[0] * inputs[2:].numel()
            case Kind.EMBEDDING:
                return inputs.numel()


def of_module(module: nn.Module, given: Tensor) -> Operation | None:
    """Return the operation of a module on its first argument; None if it is not known.

    A subclass may compute anything, and so may a module with a ``forward`` of its own.
    """
    weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
    if weight is None or weight.is_complex() or "forward" in vars(module):
        return None
    found: Any = module
    if type(module) is nn.Linear:
        return Operation(Kind.LINEAR, weight, bias)
    if type(module) is nn.Embedding:
        return Operation(
            Kind.EMBEDDING,
            weight,
            padding_index=found.padding_idx,
            by_frequency=found.scale_grad_by_freq,
        )
    # A sample without a batch axis has one axis less.
    if type(module) not in _CONVOLUTIONS + _TRANSPOSED or given.ndim != weight.ndim:
        return None
    return Operation(
        Kind.CONVOLUTION if type(module) in _CONVOLUTIONS else Kind.TRANSPOSED,
        weight,
        bias,
        found.stride,
        found.dilation,
        _padding(found),
        "constant" if found.padding_mode == "zeros" else found.padding_mode,
        found.groups,
    )


def _padding(module: Any) -> tuple[int, ...]:
    sides: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            whole = module.dilation[axis] * (module.kernel_size[axis] - 1)
            sides += [whole // 2, whole - whole // 2]
        else:
            sides += [0 if module.padding == "valid" else module.padding[axis]] * 2
    return tuple(sides)
