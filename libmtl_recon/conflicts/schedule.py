"""The choice of the training steps that are scored, and of the end of scoring."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from libmtl_recon.conflicts.grid import check_severity
from libmtl_recon.conflicts.profile import ConflictProfile, check_split_count
from libmtl_recon.conflicts.stability import Stability, in_words, numbers_of_layers, stability
from libmtl_recon.errors import UsageError

# The number of scored steps between two checks of the ranking, and before the first.
LOOK_EVERY = 50
FEWEST_STEPS = 200
# A single one could be chance.
_LOOKS_IN_A_ROW = 2
# For chosen layers, and for a whole ranking, where 0.9 is a distance of 1.4 by Eq. 22 for 41 layers
# (the paper calls distances up to 2.4 similar).
DEFAULT_CONFIDENCE, DEFAULT_RANKING_CONFIDENCE = 0.97, 0.9


@dataclass(frozen=True)
class StabilityCheck:
    """The result of a check of a choice's stability: a truth value, and a sentence for the user.

    Attributes:
        found: The stability of the choice.
        confidence: The agreement that is sufficient; see :meth:`Stability.holds`.
    """

    found: Stability
    confidence: float

    def __bool__(self) -> bool:
        return self.found.holds(self.confidence)

    def __str__(self) -> str:
        return in_words(self.found, self.confidence)


@dataclass(frozen=True)
class UntilStable:
    """The rule to stop scoring when the choice of layers is stable.

    Attributes:
        S: The severity at which layers are chosen.
        K: The number of layers, or a range of such numbers; None for the whole ranking.
        confidence: The agreement that the choice must reach; see
            :class:`~libmtl_recon.conflicts.stability.Stability`.
    """

    S: float
    K: int | range | None = None
    confidence: float = DEFAULT_RANKING_CONFIDENCE

    @classmethod
    def usual(cls, S: float, K: int | range | None) -> UntilStable:
        """Create a rule with the default confidence for the choice; it is lower for a ranking."""
        return cls(S, K, DEFAULT_RANKING_CONFIDENCE if K is None else DEFAULT_CONFIDENCE)

    def __post_init__(self) -> None:
        check_severity("S", self.S)
        numbers_of_layers("K", self.K)
        check_confidence("confidence", self.confidence)

    def check_layers(self, layers: int) -> None:
        """Check K against the network's number of layers.

        Raises:
            UsageError: There are not as many layers, or none would stay shared.
        """
        for count in numbers_of_layers("K", self.K):
            check_split_count("K", count, layers)

    def look(self, profile: ConflictProfile) -> Stability:
        """Return the stability of the choice in a profile."""
        return stability(profile, self.S, self.K)

    def check(self, profile: ConflictProfile) -> StabilityCheck:
        """Check whether the choice is stable in a profile."""
        return StabilityCheck(self.look(profile), self.confidence)

    def too_early(self, steps: int) -> StabilityCheck:
        """Return the check after too few steps to estimate the stability."""
        wanted = numbers_of_layers("K", self.K)
        return StabilityCheck(Stability(wanted, 0.0, 0.0, steps, known=False), self.confidence)


@dataclass(frozen=True)
class Schedule:
    """The steps of a training that are scored.

    Attributes:
        steps: The number of scored steps after which the run ends; None scores to its end.
        every: Score every n-th training step.
        start: The first training step that may be scored, counted from 0.
        stop: The training step before which scoring, and the run, ends; None for no limit.
        until: The rule to stop earlier.
        judged: The rule whose result is stored in the profile; by default ``until``.
    """

    steps: int | None = None
    every: int = 1
    start: int = 0
    stop: int | None = None
    until: UntilStable | None = None
    judged: UntilStable | None = None

    def __post_init__(self) -> None:
        if self.judged is None:
            object.__setattr__(self, "judged", self.until)
        for name, least in (("steps", 1), ("every", 1), ("start", 0), ("stop", self.start + 1)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise UsageError(
                    name, f"must be a whole number from {least} up", value, "Raise it."
                )

    def wants(self, step: int) -> bool:
        """Return whether a training step, counted from 0, is scored."""
        return step >= self.start and (step - self.start) % self.every == 0

    def ends(self, step: int) -> bool:
        """Return whether no step remains to be scored from a training step on."""
        return self.stop is not None and step >= self.stop


class Stopping:
    """The check, at intervals, of whether enough steps were scored."""

    def __init__(self, until: UntilStable) -> None:
        self.until = until
        self._in_a_row = 0

    def due(self, scored: int) -> bool:
        """Return whether a check is due after this number of scored steps."""
        return scored >= FEWEST_STEPS and scored % LOOK_EVERY == 0

    def enough(self, profile: ConflictProfile) -> bool:
        """Check the choice, and return whether it was stable in enough consecutive checks."""
        stable = self.until.look(profile).holds(self.until.confidence)
        self._in_a_row = self._in_a_row + 1 if stable else 0
        return self._in_a_row >= _LOOKS_IN_A_ROW


def described(until: UntilStable, found: Stability) -> dict[str, object]:
    """Return the stability of the choice, for the profile's provenance."""
    values = dataclasses.asdict(found)
    K = values.pop("K")
    return {
        "S": until.S,
        "K": [min(K), max(K)] if K else "all",
        "wanted": until.confidence,
        "agreement": round(values["agreement"], 4),
        "drift": round(values["drift"], 4),
        "reached": found.holds(until.confidence),
    }


def check_confidence(parameter: str, confidence: object) -> None:
    """Check an argument for the required agreement.

    Raises:
        UsageError: It is not a number above 0 and below 1.
    """
    number = isinstance(confidence, float) and math.isfinite(confidence)
    if not number or not 0 < confidence < 1:  # type: ignore[operator]  # a number, by now
        raise UsageError(
            parameter,
            "must be a number above 0 and below 1, the share of the chosen layers that would be "
            "chosen again",
            confidence,
            f"Leave it out for {DEFAULT_CONFIDENCE}, or give a fixed number of steps with `steps`.",
        )
