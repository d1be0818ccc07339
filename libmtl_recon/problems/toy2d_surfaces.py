"""The surfaces and contours of `toy2d`'s losses (Figures 4 and 5 of the GradOPS paper)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from libmtl_recon.pictures import new_figure, write_picture
from libmtl_recon.problems.toy2d_landscape import Array, front, losses

_EDGE = 10.8
_POINTS = 109  # along each side
_DRAWN = 73  # rows and columns of a surface
_TITLES = ("task 1", "task 2", "mean of both")
_STAR, _FRONT = "#d55e00", "#222222"


def landscape() -> tuple[Array, Array, Array]:
    """Compute the losses on a square grid.

    Returns:
        The coordinates of the grid ``[n]``, of both axes; the losses of task 1, of task 2 and their
        mean, ``[3, n, n]``, with y along the first axis of a grid; and the points at which the loss
        of each task is lowest, ``[2, 2]``.
    """
    line = np.linspace(-_EDGE, _EDGE, _POINTS)
    points = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    found = losses(points)
    lowest = front(2)[::-1]  # between which the front lies
    both = np.column_stack([found, found.mean(axis=1)])
    return line, both.T.reshape(3, _POINTS, _POINTS), lowest


def draw_surfaces(file: str | Path) -> None:
    """Draw the three surfaces (Figure 4) above their contours (Figure 5).

    A star marks the lowest loss of a single task, the line is the Pareto front.

    Args:
        file: A .png, .svg or .pdf file.

    Raises:
        ReconError: The file cannot be written.
    """
    line, heights, lowest = landscape()
    x, y = np.meshgrid(line, line)
    figure = new_figure(11.4, 7.2)
    for place, (title, height) in enumerate(zip(_TITLES, heights, strict=True)):
        surface: Any = figure.add_subplot(2, 3, place + 1, projection="3d")
        surface.plot_surface(
            x, y, height, cmap="viridis", linewidth=0, rcount=_DRAWN, ccount=_DRAWN
        )
        surface.set_title(f"loss of {title}" if place < 2 else f"{title} losses", fontsize=10)
        surface.view_init(elev=28, azim=-118)
        surface.tick_params(labelsize=7, pad=-2)
        flat = figure.add_subplot(2, 3, place + 4)
        flat.contour(line, line, height, levels=24, cmap="viridis", linewidths=0.9)
        if place < 2:
            flat.plot(*lowest[place], marker="*", markersize=15, color=_STAR)
        else:
            flat.plot(*front().T, color=_FRONT, linewidth=3)
        flat.set_aspect("equal")
        flat.tick_params(labelsize=7)
        for axes in (surface, flat):
            axes.set_xlabel("$\\theta_1$", fontsize=9)
            axes.set_ylabel("$\\theta_2$", fontsize=9)
    write_picture(figure, file)
