"""The figure of the Pareto front, or of a single objective against parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from libmtl_recon_search.page.model import Page, PageObjective, PageTrial
from libmtl_recon_search.page.style import (
    INK,
    NARROW,
    PRINTED,
    Choice,
    PageFigure,
    axis,
    hover,
    layout,
    measured,
    most,
    name_of,
    plural,
    shown,
    styles,
    title_of,
)

_WORSE = "#9a3412"


@dataclass(frozen=True)
class _Axis:
    """A quantity of a trial that can be an axis."""

    name: str
    title: str
    smaller: bool  # smaller is better
    value: Callable[[PageTrial], float]


def front_figure(page: Page) -> PageFigure:
    """Draw trials by two quantities at a time, with the non-dominated ones marked."""
    axes = _axes(page)
    several = len(page.objectives) > 1
    title = "Pareto front" if several else "Objective against parameters"
    trials = [
        trial
        for trial in measured(page.trials, [one.name for one in page.objectives])
        if all(math.isfinite(one.value(trial)) for one in axes)
    ]
    if not trials:
        return PageFigure(
            *("front", title, "", ""),
            None,
            "No trial has finished yet: this figure appears with the first one.",
        )
    x, y = (axes[1], axes[0]) if several else (axes[0], axes[1])
    # EW with plain sharing is part of the comparison by parameters, although it is not a trial.
    against = trials if several else [*trials, *_reference(page, axes)]
    stairs = _stairs(against, x, y, given=several) if len(axes) == 2 else []
    front = [trial for trial in trials if trial.on_front] if several else stairs
    figure = go.Figure()
    if stairs:
        # Continued to the right, where more parameters do not improve the objective.
        far = (max if x.smaller else min)(x.value(trial) for trial in trials)
        figure.add_scatter(
            x=[*(x.value(trial) for trial in stairs), far],
            y=[*(y.value(trial) for trial in stairs), y.value(stairs[-1])],
            mode="lines",
            line={"shape": "hv", "color": INK, "width": 1.6},
            name="front",
            hoverinfo="skip",
        )
    drawn: list[list[PageTrial]] = []  # the trials of each trace
    for name, style in styles(page).items():
        for feasible in (True, False):
            own = [t for t in trials if t.weighting == name and t.feasible is feasible]
            if not own:
                continue
            drawn.append(own)
            rims = [2.2 if feasible and any(t is one for one in front) else 0.6 for t in own]
            figure.add_scatter(
                mode="markers",
                name=shown(name, 24) + ("" if feasible else ", infeasible"),
                legendgroup=shown(name),
                showlegend=feasible or not any(t.weighting == name and t.feasible for t in trials),
                hoverinfo="text",
                hovertext=[hover(t, page.objectives) for t in own],
                marker={
                    "symbol": style.symbol if feasible else f"{style.symbol}-open",
                    "color": style.color,
                    "size": 11,
                    "opacity": 0.9,
                    "line": {
                        "color": INK if feasible else style.color,
                        "width": rims if feasible else 1.8,
                    },
                },
            )
    picked = [trial for trial in trials if trial.picked]
    for name, own, marker in (
        ("EW, plain sharing", _reference(page, axes), {"symbol": "x", "size": 13, "color": INK}),
        (
            *("picked", picked),
            {"symbol": "circle-open", "size": 22, "color": INK, "line": {"width": 2.2}},
        ),
    ):
        if own:
            drawn.append(own)
            figure.add_scatter(
                mode="markers",
                name=name,
                marker=marker,
                hoverinfo="text",
                hovertext=[hover(t, page.objectives) for t in own],
            )
    for trace, own in zip(figure.data[len(figure.data) - len(drawn) :], drawn, strict=True):
        trace.x, trace.y = ([one.value(trial) for trial in own] for one in (x, y))
    hidden = _frame(figure, page, x, y, trials)
    choices = _choices(page, axes, x, y, drawn) if len(axes) > 2 else ()
    return PageFigure(
        "front",
        title,
        _caption(page, axes, len(trials), hidden),
        f"Scatter plot of {plural(len(trials), 'finished trial')}: {y.title} against {x.title}. "
        f"{len(front)} of them are on the front.",
        figure,
        printed=PRINTED,
        narrow=NARROW | {"height": 440 + 9 * len(figure.data)},
        choices=choices,
    )


def _axes(page: Page) -> list[_Axis]:
    found = [
        _Axis(
            one.name,
            title_of(one, page.on),
            one.direction == "minimize",
            lambda trial, name=one.name: trial.values.get(name, math.nan),  # type: ignore[misc]
        )
        for one in page.objectives
    ]
    if len(found) > 1:
        return found
    if page.objectives[0].name != "parameters":
        first = _Axis("parameters", "parameters of the whole network", True, _parameters)
    else:
        first = _Axis("number", "trial", True, lambda trial: float(trial.number or 0))
    return [first, *found]


def _parameters(trial: PageTrial) -> float:
    return math.nan if trial.parameters is None else float(trial.parameters)


def _stairs(trials: Sequence[PageTrial], x: _Axis, y: _Axis, given: bool) -> list[PageTrial]:
    """Return the front of two quantities, starting with the best in ``x``."""
    fit = [trial for trial in trials if trial.feasible and (trial.on_front or not given)]
    signs = (1 if x.smaller else -1), (1 if y.smaller else -1)
    ordered = sorted(fit, key=lambda t: (signs[0] * x.value(t), signs[1] * y.value(t)))
    if given:
        return ordered
    found: list[PageTrial] = []
    for trial in ordered:
        if not found or signs[1] * y.value(trial) < signs[1] * y.value(found[-1]):
            found.append(trial)
    return found


def _reference(page: Page, axes: Sequence[_Axis]) -> list[PageTrial]:
    trial = page.reference
    if trial is None or not all(math.isfinite(one.value(trial)) for one in axes):
        return []
    return [trial]


def _frame(figure: go.Figure, page: Page, x: _Axis, y: _Axis, trials: Sequence[PageTrial]) -> int:
    """Draw axes and the lines of constraints; return the number of trials outside."""
    limits = {limit.name: limit for limit in page.limits}
    figure.update_layout(
        layout(
            520,
            xaxis=_axis(x),
            yaxis=_axis(y),
            legend={"x": 1.02, "y": 1, "font": {"size": 12}, "itemsizing": "constant"},
            shapes=[_line("x", limits.get(x.name)), _line("y", limits.get(y.name))],
            annotations=[_said("x", limits.get(x.name)), _said("y", limits.get(y.name))],
        )
    )
    values = [y.value(trial) for trial in trials]
    near = most(values)
    if near is None:
        return 0
    figure.update_yaxes(range=near)
    return sum(1 for value in values if not near[0] <= value <= near[1])


def _axis(one: _Axis) -> dict[str, Any]:
    return axis(shown(one.title), nticks=7, tickformat=_format(one), **_zero(one))


def _format(one: _Axis) -> str:
    return "~s" if one.name in ("parameters", "memory") else ""


def _zero(one: _Axis) -> dict[str, Any]:
    relative = one.name in ("delta_m", "worst_task")
    return {"zeroline": relative, "zerolinecolor": "#9aa1ab", "zerolinewidth": 1}


def _line(where: str, limit: Any) -> dict[str, Any]:
    other = "y" if where == "x" else "x"
    at = 0.0 if limit is None else limit.value
    return {
        "type": "line",
        f"{where}ref": where,
        f"{other}ref": "paper",
        f"{where}0": at,
        f"{where}1": at,
        f"{other}0": 0,
        f"{other}1": 1,
        "line": {"color": _WORSE, "width": 1.4, "dash": "dash"},
        "visible": limit is not None,
    }


def _said(where: str, limit: Any) -> dict[str, Any]:
    text = "" if limit is None else shown(limit.text, 40)
    at = 0.0 if limit is None else limit.value
    place: dict[str, Any] = {"x": at, "xref": "x", "y": 1, "yref": "paper"}
    place |= {"xanchor": "center", "yanchor": "bottom"}
    if where == "y":
        place = {"x": 1, "xref": "paper", "y": at, "yref": "y"}
        place |= {"xanchor": "right", "yanchor": "bottom"}
    return place | {
        "text": text,
        "showarrow": False,
        "font": {"color": _WORSE, "size": 11},
        "visible": limit is not None,
    }


def _choices(
    page: Page, axes: Sequence[_Axis], x: _Axis, y: _Axis, drawn: Sequence[Sequence[PageTrial]]
) -> tuple[Choice, ...]:
    limits = {limit.name: limit for limit in page.limits}
    found = []
    for place, (where, chosen) in enumerate((("x", x), ("y", y))):
        options = {}
        for one in axes:
            limit = limits.get(one.name)
            at = 0.0 if limit is None else limit.value
            near = most([one.value(trial) for own in drawn for trial in own])
            options[one.title] = (
                {where: [[one.value(trial) for trial in own] for own in drawn]},
                {
                    f"{where}axis.title.text": shown(one.title),
                    f"{where}axis.tickformat": _format(one),
                    f"{where}axis.zeroline": _zero(one)["zeroline"],
                    **(
                        {f"{where}axis.autorange": True}
                        if near is None or where == "x"
                        else {f"{where}axis.range": list(near)}
                    ),
                    f"shapes[{place}].visible": limit is not None,
                    f"shapes[{place}].{where}0": at,
                    f"shapes[{place}].{where}1": at,
                    f"annotations[{place}].visible": limit is not None,
                    f"annotations[{place}].{where}": at,
                    f"annotations[{place}].text": "" if limit is None else shown(limit.text, 40),
                },
            )
        label = "across" if where == "x" else "up"
        found.append(Choice(label, options, chosen.title))
    return tuple(found)


def _caption(page: Page, axes: Sequence[_Axis], count: int, hidden: int) -> str:
    def wish(one: PageObjective) -> str:
        return "lower" if one.direction == "minimize" else "higher"

    wishes = ", ".join(f"{wish(one)} {name_of(one)}" for one in page.objectives)
    said = [f"Each mark is a finished trial. Better means: {wishes}."]
    if len(page.objectives) == 1:
        said = [
            "Each mark is a finished trial.",
            "The step line joins the trials that no trial of equal or smaller size surpasses: "
            "where it is flat, more parameters bring no improvement.",
        ]
        if axes[0].name == "number":
            said[1:] = []
    elif len(axes) == 2:
        said += ["The step line joins the trials that no other trial surpasses in both objectives."]
    else:
        said += [
            "Trials with a thick rim are on the front: no other is at least as good in all "
            "objectives and better in one. Select the two objectives above the figure."
        ]
    if any(not trial.feasible for trial in page.trials):
        said += ["Hollow marks violate a constraint; hover over a mark to see which."]
    others = len(page.trials) - count
    if others:
        are = "is" if others == 1 else "are"
        said += [
            f"{plural(others, 'trial')} without all values (failed, ended early or not finished) "
            f"{are} not shown."
        ]
    if hidden:
        lie = "lies" if hidden == 1 else "lie"
        said += [f"{plural(hidden, 'trial')} {lie} outside of the view: double-click to show all."]
    return " ".join(said)
