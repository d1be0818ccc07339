"""The results of a scored run of a LibMTL script, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.report import ProfileReport, report_on
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.profiles.cache import Entry


class Next(Enum):
    """The next action for a scored profile."""

    COMPARE = "compare it with that of the unsplit network, since this one is split already"
    LOWER = "try a severity closer to 0, since no layer conflicts at this one"
    NOTHING = "nothing, since the network shares a single layer"
    SPLIT = "split the worst layers"


@dataclass(frozen=True)
class ScoreReport:
    """The results of scoring, made once when it has ended.

    Attributes:
        id: The profile's id.
        on: The report on the profile; its ``split`` is the number of layers to split, if any.
        missed: Number of steps that could not be read.
        next: The next action.
        base: The architecture of LibMTL that Recon is to be applied to; None for ``HPS``.
    """

    id: str
    on: ProfileReport
    missed: int
    next: Next
    base: str | None

    @property
    def profile(self) -> ConflictProfile:
        """Return the counted profile."""
        return self.on.profile

    @property
    def steps(self) -> int:
        """Return the number of scored steps."""
        return self.profile.steps


def score_report(entry: Entry, S: float, K: int | range | None, hook: ScoringHook) -> ScoreReport:
    """Return the results of a scored run.

    Args:
        entry: The profile as stored; scored by this hook or by that of another process.
        S: The severity.
        K: Number of layers to split, where it is known.
        hook: The hook that has scored.
    """
    on = report_on(entry.profile, S, K, hook.schedule.judged)
    architecture = entry.profile.provenance.get("architecture", "HPS")
    if architecture == "Recon":
        following = Next.COMPARE
    elif not on.severe:
        following = Next.LOWER
    else:
        following = Next.SPLIT if on.split else Next.NOTHING
    base = None if architecture == "HPS" else str(architecture)
    return ScoreReport(entry.id, on, hook.missed, following, base)
