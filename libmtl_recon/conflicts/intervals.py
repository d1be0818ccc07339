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
        reduction: ``[N]``, the percentage by which the fraction below one of the edges is smaller
            than in the first profile; NaN if that has none there.
    """

    titles: tuple[str, ...]
    shares: NDArray[np.float64]
    undefined: NDArray[np.float64]
    reduction: NDArray[np.float64]

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The rows of the paper's table, and one for undefined cosines if there are any.

        A reduction that is undefined is a dash, as that of the first profile.
        """
        rows = [
            (title, *(f"{share:.2f}" for share in row))
            for title, row in zip(self.titles, self.shares, strict=True)
        ]
        rows.append(("reduction (%)", "-", *(_shown(value) for value in self.reduction[1:])))
        if self.undefined.any():
            rows.append(("undefined (% of all)", *(f"{share:.2f}" for share in self.undefined)))
        return tuple(rows)


def intervals(
    profiles: Sequence[ConflictProfile],
    edges: Sequence[float] = EDGES,
    layers: Sequence[str] | None = None,
    *,
    severe: float | None = None,
) -> Intervals:
    """Return the distributions of the cosines of several profiles.

    Args:
        profiles: The profiles; the others are compared with the first.
        edges: At least two edges, descending from 0, multiples of 0.005 above -1.
        layers: Count the cosines of each of these layers; None counts those of the whole shared
            gradient.
        severe: The edge below which the reduction is computed; None for the second one, as in the
            paper's tables except Table 9.

    Raises:
        UsageError: The edges are invalid, ``severe`` is not one of them, or a profile has no such
            layer.
        ReconError: A profile has no counts of the whole gradient.
    """
    below = check_edges("edges", edges)
    severe = check_severe("severe", severe, edges)
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
        conflicts = counts[: below[list(edges).index(severe)]].sum(axis=0) / defined
        reduction = 100.0 * (1.0 - conflicts / (conflicts[0] or np.nan))
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


def check_severe(parameter: str, severe: float | None, edges: Sequence[float]) -> float:
    """Return the edge below which a reduction is computed.

    Args:
        parameter: The name of the caller's argument, for the message.
        severe: The edge; None for the second one.
        edges: Valid edges.

    Raises:
        UsageError: It is not one of the edges.
    """
    if severe is None:
        return edges[1]
    if severe not in edges:
        raise UsageError(
            parameter,
            "must be one of the edges",
            severe,
            f"They are {', '.join(f'{edge:g}' for edge in edges)}.",
        )
    return severe


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


def _shown(reduction: float) -> str:
    return "-" if np.isnan(reduction) else f"{reduction:.2f}"


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
