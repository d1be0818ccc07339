"""Compare two rankings of the same layers."""

from __future__ import annotations

from collections.abc import Sequence


def ranking_distance(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the mean over all layers of the difference in rank (Eq. 22 of the Recon paper).

    Args:
        one: All layers, worst first.
        other: The same layers.

    Raises:
        ValueError: They are not the same layers.
    """
    place = {name: rank for rank, name in enumerate(other)}
    if set(one) != set(place) or len(one) != len(place):
        raise ValueError("only rankings of the same layers can be compared")
    return sum(abs(rank - place[name]) for rank, name in enumerate(one)) / max(len(one), 1)


def chance_distance(layers: int) -> float:
    """Return the expected distance of Eq. 22 between a ranking and a random one.

    This is the mean of |i - j| for two places drawn independently from ``layers``.
    """
    return (layers**2 - 1) / (3 * layers)


def overlap(one: Sequence[str], other: Sequence[str], K: int) -> float:
    """Return the fraction of one ranking's first K layers that are among the other's first K."""
    return len(set(one[:K]) & set(other[:K])) / K
