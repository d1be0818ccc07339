"""The fractions of cosines in intervals, as in Tables 6 and 8 to 10 of the Recon paper."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.grid import BINS, check_severity
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.errors import ReconError, UsageError

# The edges of Table 6.
EDGES = (0.0, -0.01, -0.02, -0.03)


@dataclass(frozen=True)
class Intervals:
    """The fractions of the cosines of N profiles in intervals.

    Attributes:
        titles: The I intervals, from 1 down to -1, as the paper writes them.
        shares: ``[I, N]``, percentages of the steps and pairs whose cosine is defined; NaN if there
            is none.
        undefined: ``[N]``, the percentage of all steps and pairs in which a gradient was zero.
        reduction: ``[N]``, the percentage by which the fraction below the second edge is smaller
            than in the first profile; NaN if that has none there.
    """

    titles: tuple[str, ...]
    shares: NDArray[np.float64]
    undefined: NDArray[np.float64]
    reduction: NDArray[np.float64]


def intervals(
    profiles: Sequence[ConflictProfile],
    edges: Sequence[float] = EDGES,
    layers: Sequence[str] | None = None,
) -> Intervals:
    """Return the distributions of the cosines of several profiles.

    Args:
        profiles: The profiles; the others are compared with the first.
        edges: At least two edges, descending from 0, multiples of 0.005 above -1.
        layers: Count the cosines of each of these layers; None counts those of the whole shared
            gradient.

    Raises:
        UsageError: The edges are invalid, or a profile has no such layer.
        ReconError: A profile has no counts of the whole gradient.
    """
    below = check_edges("edges", edges)
    counts = np.stack([_counts(profile, layers) for profile in profiles], axis=1)
    defined = counts[:BINS].sum(axis=0)
    marks = [BINS, *below, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.stack(
            [
                100.0 * counts[low:high].sum(axis=0) / defined
                for high, low in itertools.pairwise(marks)
            ]
        )
        severe = 100.0 * counts[: below[1]].sum(axis=0) / defined
        reduction = 100.0 * (1.0 - severe / severe[0])
        undefined = 100.0 * counts[BINS] / counts.sum(axis=0)
    tops, lows = ["[1", *(f"({edge:g}" for edge in edges)], [*(f"{e:g}]" for e in edges), "-1]"]
    titles = [f"{top}, {low}" for top, low in zip(tops, lows, strict=True)]
    return Intervals(tuple(titles), shares, undefined, reduction)


def check_edges(parameter: str, edges: Sequence[float]) -> list[int]:
    """Return the number of bins below each edge.

    Args:
        parameter: The name of the caller's argument, for the message.
        edges: The edges.

    Raises:
        UsageError: They are not at least two valid severities in descending order.
    """
    below = [check_severity(parameter, edge) for edge in edges]
    if len(below) < 2 or any(low >= high for high, low in itertools.pairwise(below)):
        raise UsageError(
            parameter,
            "must be at least two numbers in descending order",
            list(edges),
            "Try 0,-0.01,-0.02,-0.03.",
        )
    return below


def common_layers(profiles: Sequence[ConflictProfile]) -> list[str]:
    """Return the layers that all profiles have, in the order of the first one.

    Args:
        profiles: At least one.

    Raises:
        ReconError: They have no layer in common.
    """
    common = set.intersection(*(set(profile.layer_names) for profile in profiles))
    if not common:
        raise ReconError(
            "These profiles have no layer in common, so no layer can be counted in all of them. "
            "Give profiles of one network; `libmtl-recon layers import` gives the layers of one "
            "the names of another."
        )
    return [name for name in profiles[0].layer_names if name in common]


def _counts(profile: ConflictProfile, layers: Sequence[str] | None) -> NDArray[np.int64]:
    """Return the counts ``[401]``, the undefined cosines last."""
    if layers is None:
        if profile.whole is None:
            raise ReconError(
                "This profile has no counts for the whole shared gradient, because an older "
                "version wrote it or some of its layers were left out. Score the network again, "
                "or use its layers."
            )
        total: NDArray[np.int64] = profile.whole.sum(axis=0)
        return total
    rows = []
    for name in layers:
        if name not in profile.layer_names:
            raise UsageError(
                "layers",
                "must be layers of every profile",
                name,
                "In a split network, these are the layers that stayed shared.",
            )
        rows.append(profile.layer_names.index(name))
    undefined = profile.undefined[:, rows].sum()
    return np.append(profile.histogram[rows].sum(axis=0), undefined)
