"""What a network of the papers consists of, and the width of its layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Network:
    """The two arguments of LibMTL's Trainer that make up a network.

    Attributes:
        encoder_class: Creates the part that the tasks share; each time anew.
        decoders: Each task's own part, by the task's name.
    """

    encoder_class: Callable[[], nn.Module]
    decoders: nn.ModuleDict


def scaled(channels: int, width: float) -> int:
    """Return the channels of a layer at a width; at least one."""
    return max(1, round(channels * width))
