"""Compare two rankings of layers, and each with rankings that need no measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libmtl_recon.conflicts.baselines import norms_first
from libmtl_recon.conflicts.compare import chance_distance, overlap, ranking_distance
from libmtl_recon.conflicts.layers import Layer
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
    """The comparison of two rankings A and B of the same layers.

    Attributes:
        layers: The number of layers.
        tops: The numbers of :data:`TOPS` that are smaller.
        agreements: The agreement of the rankings of A and of B with themselves; see
            :class:`~libmtl_recon.conflicts.stability.Stability`. None for a ranking that is not
            a profile's.
        together: The similarity of A and B.
        trivial: The similarity of A, and of B, with norms first and then network order; None if
            the network's layers are not known.
        chance: The expected similarity of two random rankings.
    """

    layers: int
    tops: tuple[int, ...]
    agreements: tuple[float | None, float | None]
    together: Likeness
    trivial: tuple[Likeness, Likeness] | None
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
    agreements = stability(one, S).agreement, stability(other, S).agreement
    return compare_rankings(one.ranking(S), other.ranking(S), one.architecture, agreements)


def compare_rankings(
    first: Sequence[str],
    second: Sequence[str],
    layers: Sequence[Layer] | None = None,
    agreements: tuple[float | None, float | None] = (None, None),
) -> Comparison:
    """Compare two rankings of the same layers.

    Args:
        first: The ranking A, worst first.
        second: The ranking B.
        layers: The layers in network order, if their types are known.
        agreements: See :class:`Comparison`.

    Raises:
        ValueError: They are not rankings of the same layers.
    """
    count = len(first)
    tops = tuple(K for K in TOPS if count > K)

    def likeness(a: Sequence[str], b: Sequence[str]) -> Likeness:
        return Likeness(ranking_distance(a, b), tuple(overlap(a, b, K) for K in tops))

    trivial = None
    if layers is not None:
        norms = norms_first(layers)
        trivial = likeness(first, norms), likeness(second, norms)
    return Comparison(
        layers=count,
        tops=tops,
        agreements=agreements,
        together=likeness(first, second),
        trivial=trivial,
        chance=Likeness(chance_distance(count), tuple(K / count for K in tops)),
    )
