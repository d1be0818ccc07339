"""The progress and the end of a trial's training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libmtl_recon_search.plan import Plan
from optuna.trial import TrialState


class Pruned(Exception):  # noqa: N818  # not an error, but a possible end of a training
    """A training was ended early, since it was worse than the others.

    Attributes:
        outcome: The outcome so far, as JSON.
    """

    def __init__(self, outcome: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.outcome = outcome or {}


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        values: The objectives.
        outcome: Further results, as JSON.
        violations: The violations of the constraints.
        said: The message for the user.
    """

    values: tuple[float, ...]
    outcome: Mapping[str, Any] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    said: str = ""


Reached = Callable[[int, float, int], bool]
"""Told (epoch, best lead so far, parameters of the network); false ends the training."""
Train = Callable[[Plan, Reached], Trained]


@dataclass(frozen=True)
class Ending:
    """The end of a trial."""

    state: TrialState
    values: Sequence[float] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
