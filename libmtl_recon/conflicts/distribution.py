"""Draw the distributions of several profiles' cosines (Figures 1 and 4 of the Recon paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.grid import BINS, EDGES, check_severity
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.errors import ReconError
from libmtl_recon.pictures import check_picture, shown, write_picture

# The colours of Okabe and Ito, which are safe for colour-blind readers.
COLOURS = ("#222222", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_INK, _SEVERE = "#222222", "#b3360b"
_POOLED = 4  # bins per step of a line
_TAIL = 0.002  # the fraction of the cosines at each side that is outside the range shown


def draw_distributions(
    profiles: Mapping[str, ConflictProfile], file: str | Path, S: float = -0.1
) -> None:
    """Draw the distribution of the cosines of the whole shared gradient, one line per profile.

    The fraction of severe conflicts, those below S, is shown at the right.

    Args:
        profiles: The profiles by their titles; at most seven.
        file: A .png, .svg or .pdf file.
        S: The severity.

    Raises:
        UsageError: The file name is not that of a picture, or S is not a valid severity.
        ReconError: A profile has no counts of the whole gradient, there are too many profiles to
            distinguish, or the file cannot be written.
    """
    check_picture("file", file)
    below = check_severity("S", S)
    if len(profiles) > len(COLOURS):
        raise ReconError(
            f"{len(profiles)} lines in one picture cannot be distinguished. Draw at most "
            f"{len(COLOURS)} profiles."
        )
    counts = {title: counts_of(title, profile) for title, profile in profiles.items()}
    write_picture(_draw(counts, S, below), file)


def counts_of(title: str, profile: ConflictProfile) -> NDArray[np.int64]:
    """Return the counts of the whole shared gradient's defined cosines, ``[400]``.

    Args:
        title: The name of the profile, for the message.
        profile: The profile.

    Raises:
        ReconError: It has none.
    """
    if profile.whole is None:
        raise ReconError(
            f"The profile {title!r} has no counts for the whole shared gradient, because an "
            "older version wrote it or some of its layers were left out. Score the network again."
        )
    total: NDArray[np.int64] = profile.whole[:, :BINS].sum(axis=0)
    return total


def shown_range(counts: Sequence[NDArray[np.int64]], S: float = 0.0) -> tuple[float, float]:
    """Return the range of cosines to draw, which contains S and nearly all of them.

    Args:
        counts: The counts of each distribution, ``[400]``.
        S: A severity.
    """
    together = np.sum(counts, axis=0)
    share = together.cumsum() / max(together.sum(), 1)
    low = min(float(EDGES[np.searchsorted(share, _TAIL)]), S) - 0.02
    high = float(EDGES[1 + np.searchsorted(share, 1 - _TAIL)]) + 0.02
    return max(low, -1.0), min(high, 1.0)


def _draw(counts: Mapping[str, NDArray[np.int64]], S: float, below: int) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3.2, 1.0))
    low, high = shown_range(list(counts.values()), S)
    edges = EDGES[::_POOLED]
    for colour, (title, row) in zip(COLOURS, counts.items(), strict=False):
        pooled = 100.0 * row.reshape(-1, _POOLED).sum(axis=1) / max(row.sum(), 1)
        left.stairs(pooled, edges, color=colour, linewidth=1.6, label=shown(title))
    left.axvspan(low, S, color=_SEVERE, alpha=0.08, linewidth=0)
    left.axvline(0.0, color="#8a8a8a", linewidth=0.8)
    left.set_xlim(low, high)
    left.set_ylim(bottom=0)
    left.set_xlabel("cosine of two tasks' gradients, all shared layers together", fontsize=9)
    left.set_ylabel(f"% of steps and pairs, in {edges[1] - edges[0]:g} of cosine", fontsize=9)
    left.legend(frameon=False, fontsize=9)
    severe = [100.0 * row[:below].sum() / max(row.sum(), 1) for row in counts.values()]
    places = np.arange(len(severe))
    right.barh(places, severe, color=COLOURS[: len(severe)], height=0.7)
    for place, value in zip(places, severe, strict=True):
        right.annotate(
            f"{value:.1f}",
            (value, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_INK,
        )
    right.set_xlim(0, max([*severe, 1e-9]) * 1.25)
    right.set_yticks([])
    right.invert_yaxis()
    right.set_xlabel(f"% with cosine < {S:g}", fontsize=9, color=_SEVERE)
    for axes in (left, right):
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    right.spines["left"].set_visible(False)
    figure.suptitle("Gradient conflicts", x=0.012, ha="left", fontsize=10.5, color=_INK)
    return figure
