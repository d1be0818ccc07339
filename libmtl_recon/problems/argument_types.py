"""Argparse types whose errors state the accepted values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from contextlib import suppress


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a type for whole numbers from ``low`` to ``high``, or from ``low`` up."""
    rule = f"from {low} up" if high is None else f"from {low} to {high}"

    def read(text: str) -> int:
        value: int | None = None
        with suppress(ValueError):
            value = int(text)
        if value is None or value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be a whole number {rule} (got {text!r})")
        return value

    return read


def share(text: str) -> float:
    """Parse a number from 0 up to, but not including, 1."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1 (got {text!r})")
    return value


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0 (got {text!r})")
    return value


def exponent(text: str) -> float:
    """Parse a finite number."""
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number (got {text!r})")
    return value


def _number(text: str) -> float:
    with suppress(ValueError):
        return float(text)
    return math.nan
