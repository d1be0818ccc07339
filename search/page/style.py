"""The style of the figures: distinguishable colours, and escaped texts."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go
from libmtl_recon_search.page.model import Page, PageObjective, PageTrial
from libmtl_recon_search.trials import in_words, short_reason

from libmtl_recon.texts import bounded, printable

INK, FAINT, GRID = "#1c1f23", "#6b7280", "#e4e7eb"
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

# The colours of Okabe and Ito, without yellow, which is hard to see on paper. Marks distinguish
# weightings without colours, and beyond six: no pair of colour and mark occurs twice among 42.
_WEIGHTINGS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_SYMBOLS = ("circle", "square", "triangle-up", "cross", "star", "hexagon", "triangle-down")
# Paul Tol's muted colours, so that a task or an objective is not mistaken for a weighting.
OTHERS = (
    *("#332288", "#88ccee", "#117733", "#ddcc77", "#cc6677", "#aa4499", "#44aa99", "#882255"),
    "#999933",
)
PATTERNS = ("", "/", "x", ".")

_TITLES = {
    "delta_m": "Δm",
    "worst_task": "Δ of the worst task",
    "step_time": "time per step",
}


@dataclass(frozen=True)
class Style:
    """The style of a weighting in all figures."""

    color: str
    symbol: str


@dataclass(frozen=True)
class Choice:
    """A list to choose an axis from.

    Attributes:
        label: The label of the list.
        options: Names, each with the arguments of plotly's ``update``: changes of traces and
            layout.
        chosen: The option that is drawn first.
    """

    label: str
    options: Mapping[str, tuple[dict[str, Any], dict[str, Any]]]
    chosen: str


@dataclass(frozen=True)
class PageFigure:
    """A figure with its texts.

    Attributes:
        id: The anchor in the page.
        title: The heading.
        caption: A description of the figure and how to read it.
        alt: The alternative text.
        figure: The figure; None if there is nothing to draw yet.
        empty: A sentence that is then shown instead.
        narrow: Changes of the layout on a phone, by path: ``{"yaxis.tickfont.size": 9}``.
        printed: Changes of the wide layout for print.
        least: The width in pixels below which it scrolls in its box; 0 if it always fits.
        choices: The lists above the figure.
    """

    id: str
    title: str
    caption: str
    alt: str
    figure: go.Figure | None
    empty: str = ""
    narrow: Mapping[str, Any] = field(default_factory=dict)
    printed: Mapping[str, Any] = field(default_factory=dict)
    least: int = 0
    choices: tuple[Choice, ...] = ()


def styles(page: Page) -> dict[str, Style]:
    """Return the colour and mark of each weighting, in the order of the page."""
    trials = (*([page.reference] if page.reference else []), *page.trials)
    return {
        name: Style(
            _WEIGHTINGS[place % len(_WEIGHTINGS)],
            _SYMBOLS[place % len(_SYMBOLS)],
        )
        for place, name in enumerate(dict.fromkeys(trial.weighting for trial in trials))
    }


def plain(text: str, longest: int = 48) -> str:
    """Return a name of bounded length without control characters."""
    return bounded(printable(text), longest)


def ending(text: str, longest: int) -> str:
    """Return the end of a name, in which the paths of layers differ, escaped for plotly."""
    name = printable(text)
    return html.escape(name if len(name) <= longest else f"…{name[1 - longest :]}", quote=False)


def shown(text: str, longest: int = 48) -> str:
    """Return a name escaped for plotly, which interprets some HTML in every text."""
    return html.escape(plain(text, longest), quote=False)


def paragraph(text: str, width: int = 56, longest: int = 280) -> str:
    """Return a text in lines that are short enough for a tooltip."""
    lines = textwrap.wrap(bounded(printable(text), longest), width)
    return "<br>".join(html.escape(line, quote=False) for line in lines)


def layout(height: int, **more: Any) -> dict[str, Any]:
    """Return the layout common to all figures."""
    common: dict[str, Any] = {
        "template": "none",
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 34, "b": 56},
        "font": {"family": _FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": INK, "size": 12}},
        "legend": {"font": {"size": 12}, "itemsizing": "constant", "tracegroupgap": 2},
    }
    return common | more


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a light grid."""
    common: dict[str, Any] = {
        "title": {"text": title, "standoff": 10, "font": {"size": 13}},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": FAINT,
        "ticks": "outside",
        "tickcolor": FAINT,
        "automargin": True,
    }
    return common | more


PRINTED = {"height": 330}
"""Return the changes for print, with which two figures fit on a page."""

NARROW = {
    "font.size": 11,
    "dragmode": False,  # scrolling the page by touch does not zoom
    "margin.l": 44,
    "margin.r": 8,
    "legend.orientation": "h",
    "legend.x": 0,
    "legend.xanchor": "left",
    "legend.y": -0.22,
    "legend.yanchor": "top",
}
"""Return the changes for phones, for figures with a legend."""


def name_of(objective: PageObjective) -> str:
    """Return an objective as a word for use in a sentence."""
    return _TITLES.get(objective.name, plain(objective.name))


def title_of(objective: PageObjective, on: str) -> str:
    """Return an objective in words, with its unit, as the title of an axis."""
    name = _TITLES.get(objective.name, objective.name)
    data = f" on {on} data" if objective.name in ("delta_m", "worst_task") else ""
    unit = f", {objective.unit}" if objective.unit else ""
    return f"{name}{data}{unit}"


def number(value: float | None, name: str = "") -> str:
    """Return a value with few digits."""
    if value is None or not math.isfinite(value):
        return "–" if value is None else str(value)
    if name in ("delta_m", "worst_task"):
        return f"{value:+.2f}"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"


def label(trial: PageTrial) -> str:
    """Return the name of a trial."""
    return "baseline" if trial.number is None else f"trial {trial.number}"


def hover(trial: PageTrial, objectives: Sequence[PageObjective]) -> str:
    """Return the tooltip of a trial."""
    marks = [
        word for word, so in (("picked", trial.picked), ("on the front", trial.on_front)) if so
    ]
    lines = [f"<b>{label(trial)}</b>" + (f" ({', '.join(marks)})" if marks else "")]
    lines += [paragraph(trial.plan)]
    for one in objectives:
        if one.name in trial.values:
            value = number(trial.values[one.name], one.name)
            name = html.escape(name_of(one), quote=False)
            lines += [f"{name}: <b>{value}</b> {shown(one.unit)}"]
    if trial.parameters is not None and "parameters" not in trial.values:
        lines += [f"parameters: {trial.parameters:,}"]
    if trial.state not in ("finished", "baseline") or trial.reason:
        reason = short_reason(trial.reason)
        lines += [paragraph(f"{trial.state}: {reason}" if reason else trial.state)]
    if not trial.feasible:
        lines += [paragraph(f"infeasible: {trial.violated}")]
    if trial.again:
        lines += [f"chosen again by {in_words(trial.again)}"]
    return "<br>".join(lines)


def measured(trials: Iterable[PageTrial], names: Sequence[str]) -> list[PageTrial]:
    """Return the trials that have a finite value of each of these objectives."""
    return [
        trial
        for trial in trials
        if all(math.isfinite(trial.values.get(name, math.nan)) for name in names)
    ]


def most(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the range of all values except outliers; None if there are no outliers."""
    finite = sorted(value for value in values if math.isfinite(value))
    if len(finite) < 8:
        return None
    low, high = finite[len(finite) // 4], finite[3 * len(finite) // 4]
    far = 3 * (high - low)
    near = [value for value in finite if low - far <= value <= high + far]
    if not far or len(near) == len(finite):
        return None
    room = 0.06 * (near[-1] - near[0])
    return near[0] - room, near[-1] + room


def plural(count: int, what: str) -> str:
    """Return a count with its noun: ``1 trial``, ``2 trials``."""
    return f"{count} {what}" + ("" if count == 1 else "s")
