"""Report on a conflict profile, as data: its layers, worst first, and how certain that is."""

from __future__ import annotations

from dataclasses import dataclass

from libmtl_recon.conflicts.layers import Layer
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.schedule import UntilStable
from libmtl_recon.conflicts.stability import Stability, in_words


@dataclass(frozen=True)
class RankedLayer:
    """A layer of a ranking.

    Attributes:
        layer: Which.
        score: In how many (step, pair of tasks) the cosine was below S.
        share: The same, of those in which it is defined; 0 where it never is.
        undefined: In how many it is not defined.
    """

    layer: Layer
    score: int
    share: float
    undefined: int


@dataclass(frozen=True)
class ProfileReport:
    """A profile's ranking at one severity; created by :func:`report_on`.

    Attributes:
        profile: Of which this is the report.
        S: The severity.
        layers: All L of them, worst first.
        counted: How many (step, pair of tasks) there are, defined or not.
        severe: How many layers have more than half of the worst score.
        split: How many layers to begin with when splitting: those asked for, else the severe
            ones, and never all of them; 0 where the network has no layer to spare or none
            conflicts.
        stability: How sure the choice is that was asked about; None if none was.
        confidence: How sure is enough for that.
    """

    profile: ConflictProfile
    S: float
    layers: tuple[RankedLayer, ...]
    counted: int
    severe: int
    split: int
    stability: Stability | None
    confidence: float

    @property
    def any_undefined(self) -> bool:
        """Whether a cosine was undefined in some layer."""
        return any(row.undefined for row in self.layers)

    @property
    def sentence(self) -> str:
        """How certain the choice is, for the user; empty if not requested."""
        return "" if self.stability is None else in_words(self.stability, self.confidence)


def report_on(
    profile: ConflictProfile,
    S: float,
    K: int | range | None = None,
    asked: UntilStable | None = None,
) -> ProfileReport:
    """Report on a profile at a severity.

    Args:
        profile: Of N steps and L layers.
        S: The severity, a multiple of 0.005 with -1 < S ≤ 0.
        K: How many layers are to be split, or the range of such numbers; None: the severe ones.
        asked: The choice of layers whose stability is of interest.

    Raises:
        UsageError: S is not a valid severity, or ``asked`` is about more layers than there are.
    """
    scores = profile.scores(S)
    undefined = dict(zip(profile.layer_names, profile.undefined.sum(axis=0).tolist(), strict=True))
    layers = {layer.name: layer for layer in profile.architecture}
    counted = profile.steps * profile.pairs

    def row(name: str) -> RankedLayer:
        defined = counted - undefined[name]
        share = scores[name] / defined if defined else 0.0
        return RankedLayer(layers[name], scores[name], share, undefined[name])

    most = max(scores.values(), default=0)
    severe = sum(score > most / 2 for score in scores.values())
    return ProfileReport(
        profile=profile,
        S=S,
        layers=tuple(map(row, profile.ranking(S))),
        counted=counted,
        severe=severe,
        split=_first_split(severe, len(layers), K) if severe else 0,
        stability=None if asked is None else asked.look(profile),
        confidence=1.0 if asked is None else asked.confidence,
    )


def _first_split(severe: int, layers: int, K: int | range | None) -> int:
    if K is None:
        return min(severe, layers - 1)
    return K if isinstance(K, int) else max(K[0], min(severe, K[-1]))
