"""The data of a report on a conflict profile: its layers, worst first, and their stability."""

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
        layer: The layer.
        score: The number of (step, pair of tasks) whose cosine is below S.
        share: The score as a fraction of those whose cosine is defined; 0 if there is none.
        undefined: The number of those whose cosine is undefined.
    """

    layer: Layer
    score: int
    share: float
    undefined: int


@dataclass(frozen=True)
class ProfileReport:
    """A profile's ranking at one severity; created by :func:`report_on`.

    Attributes:
        profile: The profile.
        S: The severity.
        layers: All L layers, worst first.
        counted: The number of (step, pair of tasks), with a defined cosine or not.
        severe: The number of layers with more than half of the worst score.
        split: The suggested number of layers to split: the requested one, otherwise the severe
            ones, but never all layers; 0 if the network has only one layer or no layer conflicts.
        stability: The stability of the requested choice; None if none was requested.
        confidence: The agreement that is sufficient for it.
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
        """Whether a cosine was undefined in any layer."""
        return any(row.undefined for row in self.layers)

    @property
    def sentence(self) -> str:
        """The stability of the choice as a sentence for the user; empty if not requested."""
        return "" if self.stability is None else in_words(self.stability, self.confidence)


def report_on(
    profile: ConflictProfile,
    S: float,
    K: int | range | None = None,
    asked: UntilStable | None = None,
) -> ProfileReport:
    """Report on a profile at a severity.

    Args:
        profile: The profile of N steps and L layers.
        S: The severity, a multiple of 0.005 with -1 < S ≤ 0.
        K: The number of layers to split, or the range of such numbers; None: the severe ones.
        asked: The choice of layers whose stability is reported.

    Raises:
        UsageError: S is not a valid severity, or ``asked`` has more layers than the network.
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
