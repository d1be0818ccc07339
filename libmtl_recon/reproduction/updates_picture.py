"""The pictures of several methods' updates, in space and in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from libmtl_recon.pictures import new_figure, write_picture
from libmtl_recon.reproduction.updates import Array, Update

# The colours of Okabe and Ito, which are safe for colour-blind readers.
_TASKS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a63a8")
_UPDATE, _INK, _FAINT = "#e69f00", "#222222", "#8a8a8a"
_COLUMNS = 5


def draw_in_space(gradients: Array, updates: Sequence[Update], file: str | Path) -> None:
    """Draw the updates of three-dimensional gradients (Figure 1), one panel per method.

    The panel of GradOPS also has g'₁, the projection of g₁ onto the span of the others, and, of
    three tasks, that plane.

    Args:
        gradients: ``[T, 3]``.
        updates: The updates; the last is that of GradOPS.
        file: A .png, .svg or .pdf file.

    Raises:
        ReconError: The file cannot be written.
    """
    figure = new_figure(3.6 * len(updates), 3.9)
    reach = 1.05 * max(np.abs(v).max() for v in (gradients, *(one.update for one in updates)))
    deepest = min(0.0, 1.1 * float(gradients[:, 2].min()))
    for place, one in enumerate(updates, start=1):
        axes: Any = figure.add_subplot(1, len(updates), place, projection="3d")
        for task, gradient in enumerate(gradients):
            _arrow(axes, gradient, _TASKS[task], f"$g_{task + 1}$")
        if one is updates[-1] and one.modified is not None:
            _draw_projection(axes, gradients, one.modified[0], reach)
        _arrow(axes, one.update, _UPDATE, "$G'$", width=2.6)
        said = f"$G'$ = {_point(one.update)} {_said(one)}"
        axes.set_title(f"{one.method}\n{said}", fontsize=10, y=0.94)
        lowest = -reach if gradients.min() < 0 else 0.0
        axes.set(xlim=(lowest, reach), ylim=(lowest, reach), zlim=(deepest, reach))
        for name in "xyz":
            getattr(axes, f"set_{name}label")(name, fontsize=8, labelpad=-8)
        axes.tick_params(labelsize=7, pad=-3)
        axes.view_init(elev=24, azim=5)
    write_picture(figure, file)


def draw_in_plane(gradients: Array, updates: Sequence[Update], file: str | Path) -> None:
    """Draw the updates of two-dimensional gradients (Figure 3), one panel per method.

    As in the paper, updates are drawn at half their length. The dashed line of MGDA runs through
    the ends of two gradients.

    Args:
        gradients: ``[T, 2]``.
        updates: The updates.
        file: A .png, .svg or .pdf file.

    Raises:
        ReconError: The file cannot be written.
    """
    columns = min(len(updates), _COLUMNS)
    rows = -(-len(updates) // columns)
    figure = new_figure(2.7 * columns, 2.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    drawn = [gradients, *(one.update[None] / 2 for one in updates)]
    drawn += [one.modified for one in updates if one.modified is not None]
    every = np.concatenate([*drawn, np.zeros((1, 2))])
    low, high = every.min(axis=0), every.max(axis=0)
    middle, half = (low + high) / 2, 0.62 * float((high - low).max())
    for axes, one in zip(grid.flat, updates, strict=False):
        for task, gradient in enumerate(gradients):
            _flat_arrow(axes, gradient, _TASKS[task], f"$g_{task + 1}$")
        if one.method == "MGDA" and len(gradients) == 2:
            axes.plot(*gradients.T, linestyle="--", color=_FAINT, linewidth=1)
        if one.modified is not None:
            for task, own in enumerate(one.modified):
                _flat_arrow(axes, own, _TASKS[task], f"$g'_{task + 1}$", dashed=True)
        _flat_arrow(axes, one.update / 2, _UPDATE, "", width=3.0)
        axes.plot(0, 0, marker="o", markersize=4, color=_INK)
        axes.set_title(
            f"{one.method.replace('-', '−') if 'α' in one.method else one.method}\n{_said(one)}",
            fontsize=9,
        )
        axes.set_xlim(middle[0] - half, middle[0] + half)
        axes.set_ylim(middle[1] - half, middle[1] + half)
        axes.set_aspect("equal")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(updates) :]:
        axes.set_visible(False)
    write_picture(figure, file)


def _draw_projection(axes: Any, gradients: Array, own: Array, reach: float) -> None:
    """Draw g'₁, the removed part of g₁, and the plane of two other gradients."""
    _arrow(axes, own, _TASKS[0], "$g'_1$", dashed=True)
    removed = gradients[0] - own
    if np.linalg.norm(removed) > 1e-9:
        _arrow(axes, removed, _FAINT, "proj$_S(g_1)$", dashed=True)
        axes.plot(*np.stack([gradients[0], own]).T, color=_FAINT, linewidth=0.8, linestyle=":")
    if len(gradients) != 3:
        return
    first, second = np.linalg.qr(gradients[1:].T)[0].T
    side = np.array([-1.0, 1.0]) * reach / 1.6
    a, b = np.meshgrid(side, side)
    plane = a[..., None] * first + b[..., None] * second
    axes.plot_surface(*np.moveaxis(plane, -1, 0), color=_FAINT, alpha=0.15, linewidth=0)


def _arrow(
    axes: Any, vector: Array, color: str, label: str, width: float = 1.6, dashed: bool = False
) -> None:
    style = "--" if dashed else "-"
    axes.quiver(
        0, 0, 0, *vector, color=color, linewidth=width, arrow_length_ratio=0.12, linestyle=style
    )
    beyond = vector * (1 + 0.3 / max(float(np.linalg.norm(vector)), 0.3))
    axes.text(*beyond, label, color=color if color != _UPDATE else _INK, fontsize=8, ha="center")


def _flat_arrow(
    axes: Any, vector: Array, color: str, label: str, width: float = 1.7, dashed: bool = False
) -> None:
    axes.annotate(
        "",
        vector,
        (0, 0),
        arrowprops={
            "arrowstyle": "-|>",
            "color": color,
            "linewidth": width,
            "linestyle": "--" if dashed else "-",
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    length = max(float(np.linalg.norm(vector)), 1e-12)
    axes.annotate(
        label,
        vector,
        xytext=tuple(9 * vector / length),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=9,
        color=color,
    )


def _point(vector: Array) -> str:
    return f"({', '.join(f'{value + 0.0:.1f}' for value in np.round(vector, 1))})"


def _said(update: Update) -> str:
    against = ", ".join(f"$g_{task + 1}$" for task in update.conflicts)
    return f"conflicts with {against}" if against else "conflicts with none"
