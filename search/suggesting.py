"""Ask Optuna for a value of a list or a range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from libmtl_recon_search.ranges import Range


def suggest(trial: optuna.trial.BaseTrial, name: str, among: Sequence[Any] | Range) -> Any:
    """Let Optuna choose a value.

    Raises:
        ValueError: The trial has a fixed value that is not among these.
    """
    if not isinstance(among, Range):
        labels = [label(value, among) for value in among]
        return among[labels.index(trial.suggest_categorical(name, labels))]
    values, step = among.values, among.step
    # Optuna requires a range that ends on a step, and sums steps with rounding errors.
    high = among.high if values is None else values[-1]
    value: float
    found: float
    if among.is_int:
        found = trial.suggest_int(
            name, int(among.low), int(high), step=int(step or 1), log=among.log
        )
        value = found
    elif step is None or values is None:
        value = found = trial.suggest_float(name, among.low, high, log=among.log)
    else:
        found = trial.suggest_float(name, among.low, high, step=step)
        value = min(values, key=lambda candidate: abs(candidate - found))
    if not among.low <= value <= high or abs(value - found) > 1e-6 * (step or 1.0):
        raise ValueError(f"{name} has no value {found}")
    return value


def label(value: Any, among: Sequence[Any] | Range) -> Any:
    """Return a value in Optuna's form, in which a list cannot be a category."""
    if isinstance(among, Range) or not isinstance(value, list | tuple):
        return value
    return " ".join(map(str, value))
