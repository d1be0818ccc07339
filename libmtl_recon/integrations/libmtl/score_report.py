"""What a scored run of a LibMTL script has to tell, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.report import ProfileReport, report_on
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.profiles.cache import Entry


class Next(Enum):
    """What to do with a scored profile."""

    COMPARE = "compare it with that of the unsplit network, since this one is split already"
    LOWER = "look at a severity closer to 0, since at this one no layer conflicts"
    NOTHING = "nothing, since the network shares a single layer"
    SPLIT = "split the worst layers"


@dataclass(frozen=True)
class ScoreReport:
    """Made once, when scoring has ended.

    Attributes:
        id: The profile's.
        on: What the profile says; its ``split`` is how many layers to split, if any.
        missed: How many steps could not be read.
        next: What to do.
        base: The architecture of LibMTL on which Recon is to be put; None for ``HPS``.
    """

    id: str
    on: ProfileReport
    missed: int
    next: Next
    base: str | None

    @property
    def profile(self) -> ConflictProfile:
        """What was counted."""
        return self.on.profile

    @property
    def steps(self) -> int:
        """How many steps were scored."""
        return self.profile.steps


def score_report(entry: Entry, S: float, K: int | range | None, hook: ScoringHook) -> ScoreReport:
    """What a scored run has to tell.

    Args:
        entry: The profile as it is kept; scored by this hook or by that of another process.
        S: The severity.
        K: How many layers are to be split, where that is known.
        hook: Has scored.
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
