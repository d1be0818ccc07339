"""Plot logs of GradOPS: weights, speeds and conflicts against the steps (Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libmtl_recon.errors import UsageError
from libmtl_recon.pictures import check_picture, new_figure, shown, write_picture
from libmtl_recon.weighting.gradops_log import GradOPSLog

_INK, _FAINT = "#222222", "#8a8a8a"
# Colours for tasks and for static weights, safe for colour-blind readers (Okabe and Ito).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5c5c5c")
_WIDEST = 300.0  # inches; a picture has room for as many points
_ROWS = (("factors", "weight w"), ("speeds", "relative speed r"))


@dataclass(frozen=True)
class _Line:
    label: str
    color: Any
    log: GradOPSLog


def draw_logs(
    logs: Sequence[GradOPSLog],
    file: str | Path,
    *,
    names: Sequence[str] = (),
    smooth: int | None = None,
) -> None:
    """Plot the logs of one run, or of several with different exponents α.

    One run: the weights wᵢ, the speeds rᵢ and the conflict rate below one another, one line per
    task. Several runs, as in Figure 6: one column per task and one line per run, blue for α < 0 and
    orange for α > 0, stronger for larger |α|.

    Args:
        logs: At least one log; all have the same tasks.
        file: A .png, .svg or .pdf file.
        names: The names of the logs, used if their α does not distinguish them.
        smooth: The number of steps around each step over which the mean is drawn. Default: a
            fiftieth of the longest run. 1 draws every step unsmoothed.

    Raises:
        UsageError: The file name is not that of a picture, the logs have different tasks, or
            ``smooth`` is below 1.
        ReconError: The file cannot be written.
    """
    check_picture("file", file)
    tasks = _same_tasks(logs, names)
    if smooth is not None and smooth < 1:
        raise UsageError(
            "smooth", "must be a whole number from 1 up", smooth, "Use 1 for no smoothing."
        )
    window = smooth or max(1, round(max(len(log.steps) for log in logs) / 50))
    figure = _one_run(logs[0], window) if len(logs) == 1 else _runs(logs, names, tasks, window)
    write_picture(figure, file)


def _one_run(log: GradOPSLog, window: int) -> Any:
    figure = new_figure(8.5, 7.0)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.25, 1.25, 1.0))
    for axes, (name, label) in zip(panels, _ROWS, strict=False):
        columns: NDArray[np.float64] = getattr(log, name)
        for place, task in enumerate(log.tasks):
            color = _COLORS[place % len(_COLORS)]
            _trace(axes, log.steps, columns[:, place], window, color, shown(task), behind=True)
        _style(axes, label, reference=1.0)
    _trace(panels[2], log.steps, log.conflict_rate, window, _INK, None, behind=True)
    _style_conflicts(panels[2])
    handles, labels = panels[0].get_legend_handles_labels()
    _finish(figure, f"GradOPS, {_alpha(log) or 'static weights'}", window, handles, labels)
    panels[2].set_xlabel("training step", fontsize=9, color=_INK)
    return figure


def _runs(
    logs: Sequence[GradOPSLog], names: Sequence[str], tasks: tuple[str, ...], window: int
) -> Any:
    lines = _lines(logs, names)
    figure = new_figure(min(max(3.3 * len(tasks), 7.0), _WIDEST), 7.0)
    grid = figure.add_gridspec(3, len(tasks), height_ratios=(1.25, 1.25, 1.0))
    for row, (name, label) in enumerate(_ROWS):
        first = None
        for place, task in enumerate(tasks):
            axes = figure.add_subplot(grid[row, place], sharey=first)
            first = first or axes
            for line in lines:
                values = getattr(line.log, name)[:, place]
                _trace(axes, line.log.steps, values, window, line.color, line.label)
            _style(axes, label if place == 0 else "", reference=1.0)
            axes.tick_params(labelleft=place == 0)
            if row == 0:
                axes.set_title(shown(task), loc="left", fontsize=10.5, color=_INK)
    bottom = figure.add_subplot(grid[2, :])
    for line in lines:
        _trace(bottom, line.log.steps, line.log.conflict_rate, window, line.color, line.label)
    _style_conflicts(bottom)
    bottom.set_xlabel("training step", fontsize=9, color=_INK)
    handles, labels = bottom.get_legend_handles_labels()
    _finish(figure, "GradOPS", window, handles, labels)
    return figure


def _lines(logs: Sequence[GradOPSLog], names: Sequence[str]) -> list[_Line]:
    """Return the runs by increasing α, static weights last, each with its label and colour."""
    alphas = [_alpha(log) for log in logs]
    # If an α occurs twice, or a run has static weights, α cannot name the runs.
    told_apart = all(alphas) and len(set(alphas)) == len(alphas)
    given = list(names) or [f"run {number}" for number in range(1, len(logs) + 1)]
    largest = max((abs(log.alpha) for log in logs if not math.isnan(log.alpha)), default=0.0)
    order = sorted(range(len(logs)), key=lambda i: (math.isnan(logs[i].alpha), logs[i].alpha, i))
    return [
        _Line(
            alphas[i] if told_apart else ": ".join(filter(None, (shown(given[i]), alphas[i]))),
            _shade(logs[i].alpha, largest) if told_apart else _COLORS[place % len(_COLORS)],
            logs[i],
        )
        for place, i in enumerate(order)
    ]


def _shade(alpha: float, largest: float) -> Any:
    from matplotlib import colormaps

    if alpha == 0:
        return _INK
    strength = 0.45 + 0.45 * abs(alpha) / largest
    return colormaps["Oranges" if alpha > 0 else "Blues"](strength)


def _alpha(log: GradOPSLog) -> str:
    return "" if math.isnan(log.alpha) else f"α = {log.alpha:g}".replace("-", "−")


def _trace(
    axes: Any,
    steps: NDArray[np.float64],
    values: NDArray[np.float64],
    window: int,
    color: Any,
    label: str | None,
    *,
    behind: bool = False,
) -> None:
    """Plot a smoothed curve, with the individual steps faintly behind it if there is room."""
    if behind and window > 1:
        axes.plot(steps, values, color=color, linewidth=0.5, alpha=0.18, rasterized=True)
    axes.plot(steps, running_mean(values, window), color=color, linewidth=1.7, label=label)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the mean over ``window`` values around each value, over fewer at the ends.

    Args:
        values: ``[N]``; NaN counts as missing.
        window: The number of values.

    Returns:
        ``[N]``, NaN only where the whole window is missing.
    """
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.where(known, values, 0.0).cumsum()])
    counts = np.concatenate([[0], known.cumsum()])
    places = np.arange(len(values))
    start = np.maximum(places - (window - 1) // 2, 0)
    stop = np.minimum(places + window // 2 + 1, len(values))
    count = counts[stop] - counts[start]
    total = sums[stop] - sums[start]
    mean = np.full(len(values), np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _style(axes: Any, label: str, reference: float) -> None:
    axes.axhline(reference, color=_FAINT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    drawn = [line.get_ydata() for line in axes.lines if line.get_linewidth() > 1.5]
    top = max((float(np.nanmax(y)) for y in drawn if not np.isnan(y).all()), default=1.0)
    axes.set_ylim(0, max(axes.get_ylim()[1] if axes.get_ylim()[0] == 0 else 0.0, 1.12 * top, 1.3))
    axes.set_ylabel(label, fontsize=9, color=_INK)
    _spare(axes)


def _style_conflicts(axes: Any) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_yticks([0, 0.5, 1], ["0", "½", "all"])
    axes.set_ylabel("pairs in conflict", fontsize=9, color=_INK)
    _spare(axes)


def _spare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(labelsize=8, color=_FAINT)
    axes.margins(x=0.01)


def _finish(figure: Any, title: str, window: int, handles: Any, labels: Any) -> None:
    of = "each step" if window == 1 else f"running means over {window} steps"
    figure.suptitle(f"{title}: {of}", x=0.012, ha="left", fontsize=10.5, color=_INK)
    figure.legend(
        handles, labels, loc="outside lower left", ncols=min(len(labels), 6), frameon=False,
        fontsize=9,
    )  # fmt: skip


def _same_tasks(logs: Sequence[GradOPSLog], names: Sequence[str]) -> tuple[str, ...]:
    if not logs:
        raise UsageError("logs", "must contain at least one log", [], "Read one with read_log.")
    tasks = logs[0].tasks
    for place, log in enumerate(logs):
        if log.tasks != tasks:
            raise UsageError(
                names[place] if names else f"log {place + 1}",
                f"must have the same tasks as the first log ({', '.join(tasks)})",
                ", ".join(log.tasks),
                "Draw logs of different problems separately.",
            )
    return tasks
