"""The settings of RotoGrad, with their checks."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from libmtl_recon.errors import UsageError
from libmtl_recon.texts import did_you_mean
from libmtl_recon.weighting.rotation import MAPS, Map, channel_axis

Mode = Literal["full", "rotate", "scale", "gradnorm"]
Objective = Literal["paper", "package"]
MODES: tuple[Mode, ...] = get_args(Mode)
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


@dataclass(frozen=True)
class RotoGradSettings:
    """The settings; see :class:`libmtl_recon.RotoGrad`.

    Raises:
        UsageError: A setting is invalid.
    """

    size: int | None = None
    mode: Mode = "full"
    map: Map = "cayley"
    burn_in: int = 20
    every: int = 1
    alpha: float = 1.5
    objective: Objective = "paper"

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, MODES)
        _check_choice("map", self.map, MAPS)
        _check_choice("objective", self.objective, OBJECTIVES)
        _check_whole("burn_in", self.burn_in, 0, "It is a number of steps; the authors use 20.")
        _check_whole("every", self.every, 1, "With 1, the rotations are updated in every step.")
        if self.size is not None:
            _check_whole("size", self.size, 2, "Leave it out to rotate all channels.")
        number = isinstance(self.alpha, numbers.Real) and not isinstance(self.alpha, bool)
        if not number or not math.isfinite(self.alpha) or self.alpha < 0:
            raise UsageError(
                "alpha",
                "must be a finite number from 0 up",
                self.alpha,
                "With 0, all gradient norms are equal; above 0, tasks that learn slowly get "
                "larger ones.",
            )


def check_channels(size: int | None, representation: Tensor) -> int:
    """Return the number of channels of a representation, of which ``size`` are rotated.

    Raises:
        UsageError: The representation has no channels, or fewer than are rotated.
    """
    if representation.ndim < 2 or not representation.is_floating_point():
        raise UsageError(
            "the representation",
            "must be floating-point numbers with a batch and channels",
            f"{representation.dtype} {list(representation.shape)}",
            "RotoGrad rotates the input of the decoders, [B, d] or [B, C, H, W].",
        )
    channels = representation.shape[channel_axis(representation.ndim)]
    if size is not None and channels < size:
        raise UsageError(
            "size",
            f"must be at most the {channels} channels of the representation",
            size,
            "Lower it, or leave it out to rotate all channels.",
        )
    return channels


def _check_choice(parameter: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(
            parameter,
            f"must be one of {', '.join(choices)}",
            value,
            f"{did_you_mean(value, choices)}The first one is the default.",
        )


def _check_whole(parameter: str, value: Any, least: int, way_out: str) -> None:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise UsageError(parameter, f"must be a whole number from {least} up", value, way_out)
