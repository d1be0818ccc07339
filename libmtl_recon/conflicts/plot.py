"""Draw a conflict profile as a heat map of layers and cosines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.grid import BINS, EDGES, PER_UNIT, check_severity
from libmtl_recon.conflicts.profile import ConflictProfile, check_count, no_profile
from libmtl_recon.pictures import check_picture, new_figure, shown, write_picture

# The number of bins per column of the picture: single bins are too thin to see, and contain too few
# cosines in a run of some hundred steps.
_POOLED = 5
# Inches.
_ROW, _LOW_ROW = 0.19, 0.13  # for few layers, and for many; a label needs the latter
_LOWEST, _HIGHEST = 8 * _ROW, 24.0  # all rows together
_ABOVE = 0.36  # the colour bar above the rows, over the label of S
_AXES_WIDTH = 7.4
_MOST_ROWS = 2000  # more rows would be thinner than a point of the picture
_LONGEST_NAME = 48  # characters
_INK, _FAINT, _SEVERE, _MILD = "#222222", "#8a8a8a", "#b3360b", "#d8c3b4"


def draw_profile(
    profile: ConflictProfile, file: str | Path, S: float = -0.1, K: int | None = None
) -> None:
    """Draw the distribution of the cosines of two tasks' gradients, layer by layer.

    Each row is a layer, in network order. The colour is the fraction of its cosines (all steps and
    pairs of tasks in which it is defined) in a column of width 0.025, on a square-root scale, so
    that small fractions are visible. A line marks S, and the bars at the right are the fractions
    below S; dark bars, with dark names, are the K worst layers. If there is not enough room for all
    names, the worst layers are named, and others between them. Of more than 2,000 layers, the 2,000
    worst are drawn.

    Args:
        profile: The profile to draw.
        file: A .png, .svg or .pdf file.
        S: The severity, a multiple of 0.005 with -1 < S ≤ 0.
        K: The number of worst layers to mark; None marks those above half of the worst score.

    Raises:
        UsageError: ``profile`` is something else, such as a probe, the file name is not that of a
            picture, S is not a valid severity, or there are fewer than K layers.
        ReconError: The file cannot be written.
    """
    if not isinstance(profile, ConflictProfile):
        raise no_profile("profile", profile)
    check_picture("file", file)
    if K is not None:
        check_count("K", K, len(profile.architecture))
    write_picture(_draw(profile, S, K), file)


def _draw(profile: ConflictProfile, S: float, K: int | None) -> Any:
    order = _order(profile, S)
    places = sorted(order[:_MOST_ROWS])
    scores = _percent(np.array(list(profile.scores(S).values())), profile)[places]
    layers = len(places)
    # From here on, layers are identified by their rows.
    rows = {place: row for row, place in enumerate(places)}
    order = [rows[place] for place in order[:_MOST_ROWS]]
    row = min(_ROW if layers <= 60 else _LOW_ROW, _HIGHEST / layers)
    font = 44 * max(row, _LOW_ROW)
    names = [shown(profile.architecture[place].title, _LONGEST_NAME) for place in places]
    width = _AXES_WIDTH + 0.62 * font / 72 * max(map(len, names))
    figure = new_figure(width, 1.85 + max(row * layers, _LOWEST))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3.6, 1.0))
    marked = order[: _above_half(scores) if K is None else K]  # the rows, worst first
    named = _with_room(order, int(np.ceil(_LOW_ROW / row - 1e-9)))
    edges, shares = _columns(profile, S)
    _draw_cosines(left, edges, shares[places], S, max(row * layers, _LOWEST))
    _draw_scores(right, scores, S, marked, named, font)
    if marked:
        what = f"the K = {K} worst" if K is not None else "above half of the worst,"
        _draw_legend(right, f"{what} at S = {S:g}")
    left.set_ylim(layers - 0.5, -0.5)
    left.set_yticks(named, [names[place] for place in named])
    left.tick_params(axis="y", labelsize=font, length=0)
    dark = frozenset(marked)
    for place, label in zip(named, left.get_yticklabels(), strict=True):
        label.set_color(_SEVERE if place in dark else _INK)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.suptitle(_title(profile), x=0.012, ha="left", fontsize=10.5, color=_INK)
    return figure


def _order(profile: ConflictProfile, S: float) -> list[int]:
    """Return the layers' positions in the network, worst first."""
    place = {name: index for index, name in enumerate(profile.layer_names)}
    return [place[name] for name in profile.ranking(S)]


def _above_half(scores: NDArray[np.float64]) -> int:
    """Return the number of layers with more than half of the worst score."""
    return int((scores > scores.max(initial=0.0) / 2).sum())


def _with_room(order: Sequence[int], apart: int) -> list[int]:
    """Return the rows that get a label, with a minimum distance, chosen in the given order."""
    taken = np.zeros(len(order) + 2 * apart, bool)
    found = []
    for place in order:
        if not taken[place + apart]:
            taken[place + 1 : place + 2 * apart] = True
            found.append(place)
    return sorted(found)


def _draw_cosines(
    axes: Any, edges: NDArray[np.float64], shares: NDArray[np.float64], S: float, height: float
) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, PowerNorm
    from matplotlib.ticker import MaxNLocator

    norm = PowerNorm(0.5, vmin=0.0, vmax=max(float(shares.max(initial=0.0)), 1.0))
    # Orange and blue are safe for colour-blind readers; paler is rarer, and white is zero.
    shades = np.linspace(0.12, 1.0, 256)
    tones = {name: ListedColormap(colormaps[name](shades)) for name in ("Oranges", "Blues")}
    severe = edges[:-1] < S - 1e-9
    for name, side in (("Oranges", severe), ("Blues", ~severe)):
        axes.pcolormesh(
            edges,
            np.arange(len(shares) + 1) - 0.5,
            np.where(side & (shares > 0), shares, np.nan),
            norm=norm,
            cmap=tones[name],
            rasterized=True,
        )
    filled = np.flatnonzero(shares.max(axis=0, initial=0.0) > 0)
    lowest = min(float(edges[filled.min(initial=len(edges) - 1)]), S)
    highest = max(float(edges[filled.max(initial=0) + 1]), 0.0)
    low, high = max(lowest - 0.02, -1.0), min(highest + 0.02, 1.0)
    axes.set_xlim(low, high)
    axes.axvline(0.0, color=_FAINT, linewidth=0.8)
    axes.axvline(S, color=_SEVERE, linewidth=1.5)
    axes.annotate(
        f"severe conflicts, cosine < S = {S:g}",
        (S, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right" if (S - low) > 0.2 * (high - low) else "left",
        color=_SEVERE,
        fontsize=9,
    )
    axes.set_xlabel("cosine of two tasks' gradients", fontsize=9, color=_INK)
    axes.set_title(" ", fontsize=1, pad=72 * (_ABOVE + 0.32))  # room for the colour bar
    inch = 1.0 / height  # as a fraction of the axes
    for name, bottom in (("Oranges", _ABOVE + 0.07), ("Blues", _ABOVE)):
        scale = axes.inset_axes((0.64, 1.0 + bottom * inch, 0.36, 0.07 * inch))
        bar = axes.figure.colorbar(
            ScalarMappable(norm, tones[name]), cax=scale, orientation="horizontal"
        )
        bar.outline.set_visible(False)
        scale.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
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
    """Return the columns' edges, of which S is one, and the percentages, ``[L, columns]``."""
    first = check_severity("S", S) % _POOLED
    starts = np.arange(first, BINS, _POOLED)
    starts = starts if first == 0 else np.concatenate([[0], starts])
    counts = np.add.reduceat(profile.histogram, starts, axis=1)
    return EDGES[np.append(starts, BINS)], _percent(counts, profile)


def _draw_scores(
    axes: Any,
    scores: NDArray[np.float64],
    S: float,
    marked: Collection[int],
    named: Sequence[int],
    font: float,
) -> None:
    from matplotlib.ticker import MaxNLocator

    dark = frozenset(marked)
    colours = [_SEVERE if place in dark else _MILD for place in range(len(scores))]
    axes.barh(np.arange(len(scores)), scores, height=0.76, color=colours)
    for place in named:
        score = scores[place]
        axes.annotate(
            "<0.1" if 0 < score < 0.05 else f"{score:.1f}",
            (score, place),
            xytext=(2, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=0.86 * font,
            color=_INK,
        )
    axes.set_xlim(0, max(float(scores.max(initial=0.0)), 1.0) * 1.25)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"% with cosine < {S:g}", fontsize=9, color=_SEVERE)
    axes.tick_params(axis="y", left=False, labelleft=False)


def _draw_legend(axes: Any, text: str) -> None:
    from matplotlib.patches import Patch

    axes.legend(
        handles=[Patch(color=_SEVERE, label=text)],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        borderpad=0,
        handlelength=0.9,
        handletextpad=0.4,
        frameon=False,
        fontsize=8,
        labelcolor=_SEVERE,
    )


def _percent(counts: NDArray[np.int64], profile: ConflictProfile) -> NDArray[np.float64]:
    """Return percentages, ``[L]`` or ``[L, columns]``, of the defined cosines."""
    defined = np.maximum(profile.steps * profile.pairs - profile.undefined.sum(axis=0), 1)
    shares: NDArray[np.float64] = (100.0 * counts.T / defined).T
    return shares


def _title(profile: ConflictProfile) -> str:
    where = profile.provenance
    keys = ("dataset", "encoder", "weighting")
    named = [shown(str(where[key]), 40) for key in keys if where.get(key)]
    run = f"{profile.steps} steps, {len(profile.tasks)} tasks"
    layers = len(profile.architecture)
    most = f", the {_MOST_ROWS:,} worst of {layers:,}" if layers > _MOST_ROWS else ""
    return f"Gradient conflicts, layer by layer{most}:  " + ", ".join([*named, run])
