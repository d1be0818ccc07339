"""Compare the rankings of two profiles, and with rankings that need no measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libmtl_recon.conflicts.baselines import norms_first
from libmtl_recon.conflicts.compare import chance_distance, overlap, ranking_distance
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.stability import stability
from libmtl_recon.errors import ReconError

# The numbers of worst layers whose overlap is reported, if there are more layers.
TOPS = (5, 10, 15, 25, 40)


@dataclass(frozen=True)
class Likeness:
    """The similarity of two rankings.

    Attributes:
        distance: The distance of Eq. 22 of the Recon paper; 0 for the same ranking.
        overlaps: For each number K of :attr:`Comparison.tops`, the fraction of the K worst layers
            that both rankings share.
    """

    distance: float
    overlaps: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """The comparison of two profiles A and B of the same layers at one severity.

    Attributes:
        layers: The number of layers.
        tops: The numbers of :data:`TOPS` that are smaller.
        agreements: The agreement of the rankings of A and of B with themselves; see
            :class:`~libmtl_recon.conflicts.stability.Stability`.
        together: The similarity of A and B.
        trivial: The similarity of A, and of B, with norms first and then network order.
        chance: The expected similarity of two random rankings.
    """

    layers: int
    tops: tuple[int, ...]
    agreements: tuple[float, float]
    together: Likeness
    trivial: tuple[Likeness, Likeness]
    chance: Likeness


def compare_profiles(one: ConflictProfile, other: ConflictProfile, S: float) -> Comparison:
    """Compare the rankings of two profiles.

    Args:
        one: The profile A.
        other: The profile B, of the same layers.
        S: The severity, a multiple of 0.005 with -1 < S ≤ 0.

    Raises:
        UsageError: S is not a valid severity.
        ReconError: The profiles have different layers; the message names some.
    """
    if set(one.layer_names) != set(other.layer_names):
        differing = sorted(set(one.layer_names) ^ set(other.layer_names))
        raise ReconError(
            f"These profiles are of different architectures, {len(one.layer_names)} and "
            f"{len(other.layer_names)} layers, and differ in {', '.join(differing[:3])}. Only "
            "rankings of the same layers can be compared."
        )
    first, second = one.ranking(S), other.ranking(S)
    trivial = norms_first(one.architecture)
    count = len(trivial)
    tops = tuple(K for K in TOPS if count > K)

    def likeness(a: Sequence[str], b: Sequence[str]) -> Likeness:
        return Likeness(ranking_distance(a, b), tuple(overlap(a, b, K) for K in tops))

    return Comparison(
        layers=count,
        tops=tops,
        agreements=(stability(one, S).agreement, stability(other, S).agreement),
        together=likeness(first, second),
        trivial=(likeness(first, trivial), likeness(second, trivial)),
        chance=Likeness(chance_distance(count), tuple(K / count for K in tops)),
    )
