"""The picture of weightings' cosines, with and without splits (Recon's Figures 1 and 4 to 10)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.conflicts.distribution import COLOURS, counts_of, shown_range
from libmtl_recon.conflicts.grid import EDGES
from libmtl_recon.pictures import new_figure, shown, write_picture
from libmtl_recon.reproduction.cosines import Distribution

MOST_WEIGHTINGS = len(COLOURS)
# Bins per step of a line, by the fewest cosines for which such narrow steps are no noise.
_POOLED = ((1000, 4), (150, 8), (0, 20))
_COLUMNS = 4
_STYLES = {"": "-", "Recon": "-", "RSL": "--", "RSP": ":"}
_FAINT, _SPLIT = "#8a8a8a", "#d55e00"


def draw_cosines(found: Sequence[Distribution], file: str | Path) -> None:
    """Draw the distributions of cosines of the whole shared gradient.

    The first panel has all weightings without a split (Figures 1 and 5 to 7 of the paper). If there
    are splits, a panel per weighting follows, with and without them (Figures 4 and 8 to 10).

    Args:
        found: The distributions.
        file: A .png, .svg or .pdf file.

    Raises:
        ReconError: The file cannot be written.
    """
    names = list(dict.fromkeys(one.weighting for one in found))
    split = [name for name in names if any(one.how for one in _of(found, name))]
    panels = 1 + len(split)
    columns = min(panels, _COLUMNS)
    rows = -(-panels // columns)
    width = 3.3 * columns if panels > 1 else 6.0
    figure = new_figure(width, 2.9 * rows + 0.2)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    counts = [counts_of(one.title, one.profile) for one in found]
    low, high = shown_range(counts)
    fewest = min(int(count.sum()) for count in counts)
    pooled = next(width for least, width in _POOLED if fewest >= least)
    step = EDGES[pooled] - EDGES[0]
    # Whole bins, since a wide one that is cut off looks as if it went on.
    low, high = step * np.floor(round(low / step, 6)), step * np.ceil(round(high / step, 6))
    drawn = {one.title: _percent(count, pooled) for one, count in zip(found, counts, strict=True)}
    plain = [one for one in found if not one.how]
    for colour, one in zip(COLOURS, plain, strict=False):
        _line(grid[0, 0], drawn[one.title], colour, one.weighting)
    grid[0, 0].set_title("all layers shared", fontsize=9)
    for place, name in enumerate(split, start=1):
        axes = grid.flat[place]
        for one in _of(found, name):
            colour = _SPLIT if one.how == "Recon" else _FAINT if one.how else COLOURS[0]
            style = _STYLES.get(one.how, "-.")
            _line(axes, drawn[one.title], colour, one.how or name, style)
        axes.set_title(shown(name, 40), fontsize=9)
    for axes in grid.flat[panels:]:
        axes.set_visible(False)
    for axes in grid.flat[:panels]:
        axes.axvline(0.0, color=_FAINT, linewidth=0.8)
        axes.set_xlim(low, high)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    figure.supxlabel("cosine of two tasks' gradients, all shared layers together", fontsize=9)
    figure.supylabel(f"% of steps and pairs, in {step:g}", fontsize=9)
    write_picture(figure, file)


def _of(found: Sequence[Distribution], name: str) -> list[Distribution]:
    return [one for one in found if one.weighting == name]


def _percent(counts: NDArray[np.int64], pooled: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (
        100.0 * counts.reshape(-1, pooled).sum(axis=1) / max(counts.sum(), 1)
    )
    return found


def _line(
    axes: Any, heights: NDArray[np.float64], colour: str, label: str, style: str = "-"
) -> None:
    axes.stairs(
        heights,
        EDGES[:: (len(EDGES) - 1) // len(heights)],
        color=colour,
        linewidth=1.4,
        linestyle=style,
        label=shown(label, 30),
    )
