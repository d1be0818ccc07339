"""The picture of `toy2d`: one panel per method, with the paths over the mean loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libmtl_recon.pictures import new_figure, write_picture
from libmtl_recon.problems.toy2d_landscape import Array, front, losses

_COLUMNS = 5
_EDGE = 10.8
_COLORS = ("#d55e00", "#0072b2", "#cc3377")
_INK, _FRONT = "#222222", "#4d4d4d"


def draw(methods: Sequence[str], points: Array, near: float, file: str | Path) -> None:
    """Draw the paths.

    Args:
        methods: The panels' titles, M of them.
        points: ``[M, starts, repeats, kept, 2]``; of all repeats but the first only the end is
            drawn.
        near: Largest distance from the front at which a path has arrived.
        file: A .png, .svg or .pdf file.

    Raises:
        ReconError: The file cannot be written.
    """
    rows = -(-len(methods) // _COLUMNS)
    figure = new_figure(2.55 * _COLUMNS, 2.75 * rows + 0.45)
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    best, (line, heights) = front(), _heights()
    for axes, method, paths in zip(grid.flat, methods, points, strict=False):
        _draw_ground(axes, best, line, heights)
        for color, repeats in zip(_COLORS, paths, strict=True):
            ends = repeats[1:, -1]
            axes.scatter(*ends.T, s=26, color=color, alpha=0.55, linewidths=0, zorder=5)
            arrived = bool(np.linalg.norm(repeats[0, -1] - best, axis=1).min() < near)
            _draw_path(axes, repeats[0], color, arrived)
        axes.set_title(method.replace("-", "−") if "α" in method else method, fontsize=11)
    for axes in grid.flat[len(methods) :]:
        axes.set_visible(False)
    _explain(figure)
    write_picture(figure, file)


def _heights() -> tuple[Array, Array]:
    """Return a range of x or y, and the rank of the mean loss over the square that it spans.

    By rank, the valleys are visible next to the much deeper bowls.
    """
    line = np.linspace(-_EDGE, _EDGE, 361)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    mean = losses(points).mean(axis=1)
    ranks = np.searchsorted(np.sort(mean), mean) / mean.size
    return line, ranks.reshape(len(line), -1)


def _draw_ground(axes: Any, best: Array, line: Array, heights: Array) -> None:
    axes.contourf(line, line, heights, levels=18, cmap="bone", vmin=-1.4, vmax=1.05)
    axes.plot(*best.T, color="white", linewidth=6, solid_capstyle="round", zorder=2)
    axes.plot(*best.T, color=_FRONT, linewidth=3.5, solid_capstyle="round", zorder=2)
    axes.set_xlim(-_EDGE, _EDGE)
    axes.set_ylim(-_EDGE, _EDGE)
    axes.set_aspect("equal")
    axes.set_xticks([-7, 0, 7])
    axes.set_yticks([-8, 0, 8])
    axes.tick_params(labelsize=8, length=2)
    axes.spines[:].set_visible(False)


def _draw_path(axes: Any, path: Array, color: str, arrived: bool) -> None:
    axes.plot(*path.T, color="white", linewidth=2.8, zorder=3)
    axes.plot(*path.T, color=color, linewidth=1.5, zorder=4)
    axes.plot(*path[0], marker="o", markersize=6.5, color=_INK, markeredgecolor="white", zorder=5)
    axes.plot(
        *path[-1],
        marker="*" if arrived else "X",
        markersize=14 if arrived else 9,
        color=color,
        markeredgecolor="white",
        markeredgewidth=0.9,
        zorder=6,
    )


def _explain(figure: Any) -> None:
    from matplotlib.lines import Line2D

    figure.legend(
        handles=[
            Line2D([], [], marker="o", linestyle="", color=_INK, label="start"),
            Line2D([], [], color=_FRONT, linewidth=4, label="Pareto front"),
            Line2D([], [], marker="*", linestyle="", markersize=12, color=_INK, label="at rest"),
            Line2D([], [], marker="X", linestyle="", markersize=8, color=_INK, label="stuck"),
            Line2D(
                [],
                [],
                marker="o",
                linestyle="",
                markersize=5,
                color=_INK,
                alpha=0.55,
                label="ends from displaced starts",
            ),
        ],
        loc="outside lower left",
        ncols=5,
        frameon=False,
        fontsize=9,
    )
