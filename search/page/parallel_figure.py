"""The figure of all finished trials as lines across parameters and objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from libmtl_recon_search.page.model import Page, PageTrial
from libmtl_recon_search.page.style import (
    FAINT,
    PRINTED,
    PageFigure,
    hover,
    layout,
    measured,
    most,
    name_of,
    plain,
    plural,
    shown,
    title_of,
)
from plotly.colors import sample_colorscale

_ABSENT = "–"
_TICKS = 5
_WIDE = 74  # pixels for an axis
_SCALE = [[0, "#bcd6ea"], [0.5, "#4a90c4"], [1, "#08306b"]]
_GAP, _CLOSEST = 0.13, 0.05  # of an axis: below the lowest value, and from tick to tick


@dataclass(frozen=True)
class _Axis:
    """A parameter or an objective.

    Attributes:
        label: The name of the axis.
        heights: The height of each trial's line, from 0 to 1.
        ticks: The heights and labels of the ticks.
    """

    label: str
    heights: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]


def parallel_figure(page: Page) -> PageFigure:
    """Draw parallel coordinates, in which a parameter that a trial does not have is at ``–``."""
    title = "Parameters and objectives"
    objectives = page.objectives
    trials = measured(page.trials, [one.name for one in objectives])
    if not trials:
        return PageFigure(
            *("parallel", title, "", ""),
            None,
            "No trial has finished yet: this figure appears with the first one.",
        )
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    dimensions: list[_Axis] = []
    constant: list[str] = []
    for name in names:
        column = [trial.params.get(name) for trial in trials]
        if len(set(map(repr, column))) == 1 and len(trials) > 1:
            constant.append(f"{plain(name, 24)} = {plain(str(column[0]), 24)}")
        else:
            dimensions.append(_axis(name, column))
    first = objectives[0]
    extra: list[tuple[str, str, Callable[[PageTrial], float | None]]] = []
    if all(one.name != "parameters" for one in objectives):
        extra.append(("parameters", "parameters", lambda trial: trial.parameters))
    extra += [
        (one.name, title_of(one, page.on).replace(f" on {page.on} data", ""), _value(one.name))
        for one in reversed(objectives)
    ]
    for name, label, value in extra:
        dimensions.append(_axis(label, [value(trial) for trial in trials], name))
    figure = _drawn(page, trials, dimensions)
    absent = any(len(trial.params) < len(names) for trial in trials)
    said = [
        f"Each line is a finished trial, {len(trials)} in all, from its parameters on the left "
        f"to its objectives on the right; the darker the line, the better its {name_of(first)}. "
        "The picked trial is the thick line. Hover over a line where it meets an axis to see "
        "its plan."
    ]
    if absent:
        said += [
            f"A line at “{_ABSENT}”, below the values of the axis, has no such parameter: only "
            "GradOPS has an α, and without a split there is no severity."
        ]
    if constant:
        said += [f"Equal in all trials: {', '.join(constant)}."]
    return PageFigure(
        "parallel",
        title,
        " ".join(said),
        f"Parallel coordinates of {plural(len(trials), 'trial')} over {len(dimensions)} axes.",
        figure,
        narrow={"font.size": 11, "dragmode": False},
        printed=PRINTED,
        least=_WIDE * len(dimensions) + 150,
    )


def _drawn(page: Page, trials: Sequence[PageTrial], axes: Sequence[_Axis]) -> go.Figure:
    """Draw SVG lines: plotly's own parallel coordinates need WebGL and do not show names."""
    first = page.objectives[0]
    values = [trial.values[first.name] for trial in trials]
    low, high = most(values) or (min(values), max(values))
    if low == high:
        low, high = low - 1, high + 1
    higher = first.direction == "maximize"
    few = len(trials) <= 60
    figure = go.Figure()
    # Better trials are drawn later, above the others.
    order = sorted(
        range(len(trials)), key=lambda i: (trials[i].picked, values[i] if higher else -values[i])
    )
    for place in order:
        trial = trials[place]
        share = min(max((values[place] - low) / (high - low), 0.0), 1.0)
        color = sample_colorscale(_SCALE, [share if higher else 1 - share])[0]
        figure.add_scatter(
            x=list(range(len(axes))),
            y=[one.heights[place] for one in axes],
            mode="lines+markers",
            line={"color": color, "width": 4 if trial.picked else 1.6 if few else 1.1},
            marker={"size": 5 if trial.picked else 3, "color": color},
            opacity=1.0 if trial.picked else 0.8 if few else 0.35,
            hoverinfo="text",
            hovertext=hover(trial, page.objectives),
            showlegend=False,
        )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        showlegend=False,
        marker={
            "color": [low],
            "cmin": low,
            "cmax": high,
            "colorscale": _SCALE,
            "reversescale": not higher,
            "showscale": min(values) < max(values),
            "colorbar": {
                "title": {"text": shown(title_of(first, page.on), 30), "side": "right"},
                "thickness": 12,
                "outlinewidth": 0,
                "tickfont": {"size": 11},
            },
        },
    )
    figure.update_layout(
        layout(
            460,
            margin={"l": 70, "r": 20, "t": 80, "b": 20},
            xaxis={
                "side": "top",
                "range": [-0.15, len(axes) - 0.85],
                "tickmode": "array",
                "tickvals": list(range(len(axes))),
                "ticktext": [one.label for one in axes],
                "tickangle": -18,
                "tickfont": {"size": 12},
                "showgrid": False,
                "zeroline": False,
                "fixedrange": True,
            },
            yaxis={"visible": False, "range": [-0.04, 1.04], "fixedrange": True},
            shapes=[
                {
                    "type": "line",
                    "layer": "below",
                    **{"x0": place, "x1": place, "y0": 0, "y1": 1},
                    "line": {"color": FAINT, "width": 1},
                }
                for place in range(len(axes))
            ],
            annotations=[
                {
                    "x": place,
                    "y": height,
                    "text": text,
                    "xanchor": "right",
                    "xshift": -4,
                    "showarrow": False,
                    "borderpad": 0,
                    "bgcolor": "rgba(255,255,255,0.8)",
                    "font": {"size": 11},
                }
                for place, one in enumerate(axes)
                for height, text in one.ticks
            ],
        )
    )
    return figure


def _value(name: str) -> Callable[[PageTrial], float]:
    return lambda trial: trial.values[name]


def _axis(label: str, column: Sequence[Any], name: str = "") -> _Axis:
    """Return an axis, with one more place at the bottom if values are absent."""
    given = [value for value in column if value is not None]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    if not numbers:
        words = {word: float(place) for place, word in enumerate(_words(given))}
        ticks = [(place, shown(word, 18)) for word, place in words.items()]
        places = [None if v is None else words[str(v)] for v in column]
    else:
        finite = [float(value) for value in given if math.isfinite(value)] or [0.0]
        log = min(finite) > 0 and max(finite) > 50 * min(finite)
        scale = math.log10 if log else float
        ticks = _ticks(finite, scale, log, name)
        places = [None if v is None or not math.isfinite(v) else scale(float(v)) for v in column]
    known = [place for place in places if place is not None] or [0.0]
    low, high = min(known), max(known)
    foot = _GAP if None in places else 0.0

    def height(place: float) -> float:
        share = (place - low) / (high - low) if high > low else 0.5
        return round(foot + (1 - foot) * share, 5)

    marked = _apart([(height(place), text) for place, text in ticks])
    return _Axis(
        shown(label, 22),
        tuple(0.0 if place is None else height(place) for place in places),
        tuple([(0.0, _ABSENT), *marked] if None in places else marked),
    )


def _words(given: Sequence[Any]) -> list[str]:
    """Return the categories in the order of their first use."""
    return list(dict.fromkeys(map(str, given)))


def _ticks(
    finite: Sequence[float], scale: Callable[[float], float], log: bool, name: str
) -> list[tuple[float, str]]:
    distinct = sorted(set(finite))
    if len(distinct) <= _TICKS + 1:
        chosen = distinct
    elif log:
        low, high = math.log10(distinct[0]), math.log10(distinct[-1])
        chosen = [10**exponent for exponent in range(math.ceil(low), math.floor(high) + 1)]
        if len(chosen) < 2:
            chosen = [distinct[0], distinct[-1]]
    else:
        chosen = _round(distinct[0], distinct[-1])
    return [(scale(value), _short(value, name)) for value in chosen]


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the ticks that do not overlap a lower one."""
    found: list[tuple[float, str]] = []
    for tick in sorted(ticks):
        if not found or tick[0] - found[-1][0] >= _CLOSEST:
            found.append(tick)
    return found


def _round(low: float, high: float) -> list[float]:
    """Return round numbers between two numbers."""
    step = 10 ** math.floor(math.log10((high - low) / _TICKS))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= _TICKS)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float, name: str) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:+.3g}" if name == "delta_m" else f"{value:.3g}"
