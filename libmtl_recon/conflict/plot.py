"""The picture of a conflict profile: a heat map of layers and cosines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflict.grid import BINS, EDGES, PER_UNIT, check_severity
from libmtl_recon.conflict.profile import ConflictProfile
from libmtl_recon.pictures import check_picture, write_picture

# Bins of the profile in one column of the picture: single bins are too thin to see, and hold too
# few cosines in a run of some hundred steps.
_POOLED = 5
_FEWEST = 8  # rows for which there is room at least
_INK, _FAINT, _SEVERE, _MILD = "#222222", "#8a8a8a", "#b3360b", "#d8c3b4"


def draw_profile(profile: ConflictProfile, file: str | Path, S: float = -0.1) -> None:
    """Draw how often the gradients of two tasks point apart, layer by layer.

    Each row is a layer, in network order; the colour is the share of its cosines (all steps and
    pairs of tasks in which it is defined) in a column of width 0.025, on a square-root scale, so
    that rare ones show. A line marks S, and the bars at the right are the shares below it.

    Args:
        profile: What to draw.
        file: A .png, .svg or .pdf file.
        S: The severity, a multiple of 0.005 with -1 < S ≤ 0.

    Raises:
        UsageError: The file name is none of a picture, or S is no severity.
        ReconError: The file cannot be written.
    """
    check_picture("file", file)
    write_picture(_draw(profile, S), file)


def _draw(profile: ConflictProfile, S: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = _percent(np.array(list(profile.scores(S).values())), profile)
    layers = len(scores)
    row = 0.19 if layers <= 60 else 0.13
    figure = Figure(figsize=(9.0, 1.6 + row * max(layers, _FEWEST)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3.6, 1.0))
    font = 44 * row
    _draw_cosines(left, profile, S, row)
    _draw_scores(right, scores, S, font)
    left.set_ylim(layers - 0.5, -0.5)
    left.set_yticks(range(layers), [layer.title for layer in profile.architecture])
    left.tick_params(axis="y", labelsize=font, length=0)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(_title(profile), x=0.012, ha="left", fontsize=10.5, color=_INK)
    return figure


def _draw_cosines(axes: Any, profile: ConflictProfile, S: float, row: float) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, PowerNorm

    layers = len(profile.architecture)
    edges, shares = _columns(profile, S)
    norm = PowerNorm(0.5, vmin=0.0, vmax=max(float(shares.max(initial=0.0)), 1.0))
    # Orange and blue are told apart by all eyes; the paler, the rarer, down to white for never.
    shades = np.linspace(0.12, 1.0, 256)
    tones = {name: ListedColormap(colormaps[name](shades)) for name in ("Oranges", "Blues")}
    severe = edges[:-1] < S - 1e-9
    for name, side in (("Oranges", severe), ("Blues", ~severe)):
        axes.pcolormesh(
            edges,
            np.arange(layers + 1) - 0.5,
            np.where(side & (shares > 0), shares, np.nan),
            norm=norm,
            cmap=tones[name],
            rasterized=True,
        )
    filled = np.flatnonzero(shares.max(axis=0, initial=0.0) > 0)
    lowest = min(float(edges[filled.min(initial=len(edges) - 1)]), S)
    highest = max(float(edges[filled.max(initial=0) + 1]), 0.0)
    axes.set_xlim(max(lowest - 0.02, -1.0), min(highest + 0.02, 1.0))
    axes.axvline(0.0, color=_FAINT, linewidth=0.8)
    axes.axvline(S, color=_SEVERE, linewidth=1.5)
    axes.annotate(
        f"severe conflicts, cosine < S = {S:g}",
        (S, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        color=_SEVERE,
        fontsize=9,
    )
    axes.set_xlabel("cosine of two tasks' gradients", fontsize=9, color=_INK)
    inch = 1.0 / (row * max(layers, _FEWEST))  # of height, as a fraction of the axes
    for name, bottom in (("Oranges", 0.17), ("Blues", 0.1)):
        scale = axes.inset_axes((0.64, 1.0 + bottom * inch, 0.36, 0.07 * inch))
        bar = axes.figure.colorbar(
            ScalarMappable(norm, tones[name]), cax=scale, orientation="horizontal"
        )
        bar.outline.set_visible(False)
        scale.tick_params(labelsize=7, length=1.5, pad=1)
        if name == "Oranges":
            scale.set_xticks([])
            scale.set_title(
                f"% of steps and pairs, in {_POOLED / PER_UNIT:g} of cosine",
                fontsize=7.5,
                color=_INK,
                pad=2,
            )


def _columns(profile: ConflictProfile, S: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The columns' edges, of which S is one, and ``[L, columns]``, the percentages in them."""
    first = check_severity("S", S) % _POOLED
    starts = np.arange(first, BINS, _POOLED)
    starts = starts if first == 0 else np.concatenate([[0], starts])
    counts = np.add.reduceat(profile.histogram, starts, axis=1)
    return EDGES[np.append(starts, BINS)], _percent(counts, profile)


def _draw_scores(axes: Any, scores: NDArray[np.float64], S: float, font: float) -> None:
    worst = float(scores.max(initial=0.0))
    colours = [_SEVERE if score > worst / 2 else _MILD for score in scores]
    axes.barh(np.arange(len(scores)), scores, height=0.76, color=colours)
    for row, score in enumerate(scores):
        axes.annotate(
            "<0.1" if 0 < score < 0.05 else f"{score:.1f}",
            (score, row),
            xytext=(2, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=0.86 * font,
            color=_INK,
        )
    axes.set_xlim(0, max(worst, 1.0) * 1.2)
    axes.set_xlabel(f"% with cosine < {S:g}", fontsize=9, color=_SEVERE)
    axes.tick_params(axis="y", left=False, labelleft=False)


def _percent(counts: NDArray[np.int64], profile: ConflictProfile) -> NDArray[np.float64]:
    """``[L]`` or ``[L, columns]``: of the steps and pairs in which a layer's cosine is defined."""
    defined = np.maximum(profile.steps * profile.pairs - profile.undefined.sum(axis=0), 1)
    shares: NDArray[np.float64] = (100.0 * counts.T / defined).T
    return shares


def _title(profile: ConflictProfile) -> str:
    where = profile.provenance
    named = [str(where[key]) for key in ("dataset", "encoder", "weighting") if where.get(key)]
    run = f"{profile.steps} steps, {len(profile.tasks)} tasks"
    return "Gradient conflicts, layer by layer:  " + ", ".join([*named, run])
