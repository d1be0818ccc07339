"""Search domains: a list of values, or a range of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from libmtl_recon import UsageError

Scalar = bool | int | float | str

# Tags of the forms of a value, which pydantic puts into the location of an error. They cannot be
# keys of a YAML file, which has no control characters.
LIST, RANGE, ONE = "\0list", "\0range", "\0one"

_MOST_STEPS = 10_000  # of a range
_LARGEST = 2**53  # the largest integer up to which Optuna's floats are exact


class Strict(BaseModel):
    """A part of a configuration: no unknown keys, no conversion of values."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _number(value: Any) -> Any:
    """Keep an integer an integer, which a float field would not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError("", "must be a number", value, "Write it as 3 or 0.5.")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError("", "must be a finite number", value, "Give a finite bound.")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise UsageError(
            "",
            "must be from -2**53 to 2**53",
            value,
            "Larger integers cannot be represented exactly.",
        )
    return value


Number = Annotated[int | float, BeforeValidator(_number), WithJsonSchema({"type": "number"})]


class Range(Strict):
    """Numbers from ``low`` up to ``high``.

    They are integers if ``low``, ``high`` and ``step``, if given, are written as integers (``{low:
    1, high: 8}``), otherwise real numbers (``{low: 0.0, high: 1.0}``).

    Attributes:
        low: The smallest value.
        high: The largest value.
        step: The distance between values, from ``low`` on.
        log: Whether to search on a logarithmic scale. Requires a ``low`` above 0 and no ``step``.
    """

    low: Number
    high: Number
    step: Number | None = None
    log: bool = False

    @field_validator("high")
    @classmethod
    def _not_below_low(cls, value: float, info: ValidationInfo) -> float:
        low = info.data.get("low")  # missing if it is invalid itself
        if low is not None and value < low:
            raise UsageError(
                "", f"must not be below low ({low})", value, "A range must not be empty."
            )
        if low is not None and math.isinf(float(value) - float(low)):
            raise UsageError(
                "", f"must be at a finite distance from low ({low})", value, "Narrow the range."
            )
        return value

    @field_validator("step")
    @classmethod
    def _neither_backwards_nor_too_fine(
        cls, value: float | None, info: ValidationInfo
    ) -> float | None:
        low, high = info.data.get("low"), info.data.get("high")
        if value is None:
            return value
        if value <= 0:
            raise UsageError("", "must be greater than 0", value, "Without steps, leave it out.")
        if low is not None and high is not None and (high - low) / value > _MOST_STEPS:
            raise UsageError(
                "",
                f"must give at most {_MOST_STEPS} steps from low ({low:g}) to high ({high:g})",
                value,
                "Use a larger step.",
            )
        return value

    @field_validator("log")
    @classmethod
    def _log_has_no_step_and_no_zero(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("step") is not None:
            raise UsageError(
                "",
                "cannot be combined with `step`",
                value,
                "Leave out one of the two: steps are equidistant, and a logarithmic scale is not.",
            )
        low = info.data.get("low")
        if value and low is not None and low <= 0:
            raise UsageError(
                "", f"needs a low above 0 (it is {low})", value, "Zero has no logarithm."
            )
        return value

    @property
    def is_int(self) -> bool:
        """Whether the values are integers."""
        return all(isinstance(part, int) for part in (self.low, self.high, self.step or 1))

    @property
    def values(self) -> Sequence[int | float] | None:
        """Return all values; None for a continuous range."""
        if self.is_int:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        return None if self.step is None else list(_grid(self.low, self.high, self.step))

    @property
    def middle(self) -> int | float:
        """Return the middle value, on a logarithmic scale the geometric one, at a step."""
        values = self.values
        if values is not None and not self.log:
            return values[len(values) // 2]
        if self.log:
            middle = math.sqrt(self.low) * math.sqrt(self.high)
        else:
            middle = self.low / 2 + self.high / 2
        # Short, since it is used on command lines.
        short = min(max(float(f"{middle:.4g}"), self.low), self.high)
        return round(middle) if self.is_int else float(short)


@lru_cache(maxsize=64)
def _grid(low: float, high: float, step: float) -> tuple[float, ...]:
    # In decimals, so that 3 times 0.1 is 0.3.
    first, last, apart = (Decimal(repr(float(part))) for part in (low, high, step))
    count = int((last - first) / apart) + 1
    made = (float(first + index * apart) for index in range(count))
    # The quotient is rounded as well: for a tiny `high`, the last value could be above it.
    return tuple(value for value in made if value <= high)


def _form(value: Any) -> str | None:
    """Return the form of a value, a list or a range; None if it is neither."""
    if isinstance(value, list):
        return LIST
    return RANGE if isinstance(value, dict | Range) else None


Forms = Discriminator(
    _form,
    custom_error_type="form",
    custom_error_message="a list of values, or a range with low and high",
)
"""Distinguish a list from a range, in an annotation that has both."""


def once(values: list[Any]) -> list[Any]:
    """Check that no value occurs twice; 1, 1.0 and true are the same value.

    Raises:
        UsageError: A value occurs twice.
    """
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise UsageError("", "must contain each value once", value, "Remove one.")
        seen.add(value)
    return values


def real(values: Range) -> Range:
    """Return the same range with real numbers."""
    low, high = float(values.low), float(values.high)
    return Range(low=low, high=high, step=values.step and float(values.step), log=values.log)
