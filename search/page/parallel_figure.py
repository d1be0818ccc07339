"""All finished trials as lines across parameters and objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from libmtl_recon_search.page.model import Page, PageTrial
from libmtl_recon_search.page.style import (
    INK,
    PRINTED,
    PageFigure,
    layout,
    measured,
    most,
    name_of,
    plain,
    plural,
    shown,
    title_of,
)

_ABSENT = "–"
_TICKS = 5
_WIDE = 74  # pixels for an axis
_SCALE = [[0, "#bcd6ea"], [0.5, "#4a90c4"], [1, "#08306b"]]
_HALO = ", ".join(["0 0 3px white"] * 4)


def parallel_figure(page: Page) -> PageFigure:
    """Parallel coordinates, in which a parameter that a trial does not have stands at ``–``."""
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
    dimensions, constant = [], []
    for name in names:
        column = [trial.params.get(name) for trial in trials]
        if len(set(map(repr, column))) == 1 and len(trials) > 1:
            constant.append(f"{plain(name, 24)} = {plain(str(column[0]), 24)}")
        else:
            dimensions.append(_dimension(name, column))
    first = objectives[0]
    extra: list[tuple[str, str, Callable[[PageTrial], float | None]]] = []
    if all(one.name != "parameters" for one in objectives):
        extra.append(("parameters", "parameters", lambda trial: trial.parameters))
    extra += [
        (one.name, title_of(one, page.on).replace(f" on {page.on} data", ""), _value(one.name))
        for one in reversed(objectives)
    ]
    for name, label, value in extra:
        dimensions.append(_dimension(label, [value(trial) for trial in trials], name))
    values = [trial.values[first.name] for trial in trials]
    near = most(values) or (min(values), max(values))
    alike = near[0] == near[1]
    if alike:
        near = (near[0] - 1, near[1] + 1)
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            labelangle=-18,
            labelfont={"size": 12, "color": INK},
            # A halo, for lines run through the ticks.
            tickfont={"size": 11, "color": INK, "shadow": _HALO},
            rangefont={"size": 1, "color": "rgba(0,0,0,0)"},
            line={
                "color": values,
                "cmin": near[0],
                "cmax": near[1],
                "colorscale": _SCALE,
                # The better, the darker.
                "reversescale": first.direction == "minimize",
                "showscale": not alike,
                "colorbar": {
                    "title": {"text": shown(title_of(first, page.on), 30), "side": "right"},
                    "thickness": 12,
                    "outlinewidth": 0,
                    "tickfont": {"size": 11},
                },
            },
        )
    )
    figure.update_layout(layout(460, margin={"l": 60, "r": 30, "t": 92, "b": 30}))
    absent = any(len(trial.params) < len(names) for trial in trials)
    said = [
        f"Each line is a finished trial, {len(trials)} in all, from its parameters at the left to "
        f"what came of them at the right; the darker, the better its {name_of(first)}. "
        "Drag along an axis to keep only the lines that pass there, drag a "
        "name to move its axis."
    ]
    if absent:
        said += [
            f"A line at “{_ABSENT}”, below the axis's values, has no such parameter: α is "
            "GradOPS's alone, and without a split there is no severity."
        ]
    if constant:
        said += [f"The same in all trials: {', '.join(constant)}."]
    return PageFigure(
        "parallel",
        title,
        " ".join(said),
        f"Parallel coordinates of {plural(len(trials), 'trial')} over {len(dimensions)} axes.",
        figure,
        narrow={"font.size": 11},
        printed=PRINTED,
        least=_WIDE * len(dimensions) + 150,
    )


def _value(name: str) -> Callable[[PageTrial], float]:
    return lambda trial: trial.values[name]


def _dimension(label: str, column: Sequence[Any], name: str = "") -> dict[str, Any]:
    """An axis, with one more place where values are absent."""
    given = [value for value in column if value is not None]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in given)
    lacking = len(given) < len(column)
    if not numbers or not given:
        places = {word: place for place, word in enumerate(_words(given))}
        ticks = [(float(place), shown(word, 18)) for word, place in places.items()]
        values = [-1.0 if v is None else float(places[str(v)]) for v in column]
        low, high = 0.0, float(max(len(places) - 1, 1))
        gap = 1.0
    else:
        finite = [float(value) for value in given if math.isfinite(value)] or [0.0]
        log = min(finite) > 0 and max(finite) > 50 * min(finite)
        scale = math.log10 if log else float
        low, high = scale(min(finite)), scale(max(finite))
        if high == low:
            low, high = low - 1, high + 1
        gap = 0.14 * (high - low)
        values = [
            low - gap if v is None or not math.isfinite(v) else scale(float(v)) for v in column
        ]
        ticks = _ticks(finite, scale, log, name)
    ticks = _apart(ticks, 0.05 * (high - low))
    if lacking:
        ticks = [(low - gap, _ABSENT), *ticks]
    room = 0.02 * (high - low)
    return {
        "label": shown(label, 22),
        "values": values,
        "tickvals": [place for place, _ in ticks],
        "ticktext": [text for _, text in ticks],
        "range": [low - gap - room if lacking else low - room, high + room],
    }


def _words(given: Sequence[Any]) -> list[str]:
    """Categories in the order of their first use."""
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


def _apart(ticks: Sequence[tuple[float, str]], least: float) -> list[tuple[float, str]]:
    """Those ticks that do not lie upon an earlier one."""
    found: list[tuple[float, str]] = []
    for tick in ticks:
        if not found or tick[0] - found[-1][0] >= least:
            found.append(tick)
    return found


def _round(low: float, high: float) -> list[float]:
    """Round numbers between two."""
    step = 10 ** math.floor(math.log10((high - low) / _TICKS))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= _TICKS)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float, name: str) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:+.3g}" if name == "delta_m" else f"{value:.3g}"
