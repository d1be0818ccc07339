"""The picture of performance against K and against S."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libmtl_recon.pictures import new_figure, write_picture

_COLOUR, _FAINT = "#3b6fb6", "#9a9a9a"


def draw_dose(
    by_k: Mapping[float, Sequence[float]],
    by_s: Mapping[float, Sequence[float]],
    K: int,
    S: float,
    file: str | Path,
    over: str = "single-task training",
) -> None:
    """Draw Δm against K, and against S if there are several, with error bars.

    Points are means over the seeds, bars their standard deviations, and small dots the seeds.

    Args:
        by_k: Δm of each seed, by the number of split layers, at the severity S.
        by_s: Δm of each seed, by the severity, with K layers; may be empty.
        K: The number of layers of ``by_s``.
        S: The severity of ``by_k``.
        file: A .png, .svg or .pdf file.
        over: What Δm is relative to.

    Raises:
        ReconError: The file cannot be written.
    """
    parts = [(by_k, f"K, the number of split layers, at S = {S:g}")]
    if by_s:
        parts.append((by_s, f"severity S, with K = {K}"))
    figure = new_figure(4.0 * len(parts), 3.4)
    grid = figure.subplots(1, len(parts), sharey=True, squeeze=False)
    for axes, (points, label) in zip(grid[0], parts, strict=True):
        _points(axes, points)
        axes.set_xlabel(label, fontsize=9)
        axes.axhline(0, color="0.6", linewidth=1, zorder=0)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0, 0].set_ylabel(f"Δm over {over} (%)", fontsize=9)
    write_picture(figure, file)


def _points(axes: Any, points: Mapping[float, Sequence[float]]) -> None:
    places = sorted(points)
    axes.set_xticks(places, [f"{place:g}" for place in places])
    for place in places:
        own = points[place]
        axes.plot([place] * len(own), own, ".", color=_FAINT, markersize=4, zorder=1)
    axes.errorbar(
        places,
        [np.mean(points[place]) for place in places],
        yerr=[np.std(points[p], ddof=1) if len(points[p]) > 1 else 0 for p in places],
        fmt="o-",
        markersize=5,
        linewidth=1.2,
        capsize=3,
        color=_COLOUR,
    )
