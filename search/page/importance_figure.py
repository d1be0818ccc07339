"""The figure of the importance of each parameter for each objective."""

from __future__ import annotations

import html
import math

import plotly.graph_objects as go
from libmtl_recon_search.page.importances import FEWEST
from libmtl_recon_search.page.model import Page
from libmtl_recon_search.page.style import (
    INK,
    NARROW,
    OTHERS,
    PageFigure,
    axis,
    layout,
    name_of,
    plain,
    shown,
    title_of,
)


def importance_figure(page: Page) -> PageFigure:
    """Draw bars of each parameter's share in the variance of each objective."""
    title = "Which parameters matter"
    shares = {
        one.name: {k: v for k, v in page.importances.get(one.name, {}).items() if math.isfinite(v)}
        for one in page.objectives
    }
    names = dict.fromkeys(name for own in shares.values() for name in own)
    if not names:
        return PageFigure(
            *("importances", title, "", ""),
            None,
            f"Importances need at least {FEWEST} finished trials in which a parameter varies.",
        )
    # The most important at the top: plotly draws from the bottom.
    ordered = sorted(names, key=lambda name: max(own.get(name, 0.0) for own in shares.values()))
    labels = [shown(name, 24) for name in ordered]
    figure = go.Figure()
    drawn = [one for one in page.objectives if shares[one.name]]
    for place, one in reversed(list(enumerate(drawn))):
        values = [100 * shares[one.name].get(name, math.nan) for name in ordered]
        objective = html.escape(name_of(one), quote=False)
        figure.add_bar(
            orientation="h",
            y=list(range(len(ordered))),
            x=[None if math.isnan(value) else round(value, 2) for value in values],
            name=shown(title_of(one, page.on), 40),
            marker={"color": OTHERS[place % len(OTHERS)]},
            text=["" if math.isnan(value) else f"{value:.0f}" for value in values],
            textposition="outside",
            cliponaxis=False,
            textfont={"size": 11, "color": INK},
            hoverinfo="text",
            hovertext=[
                f"<b>{shown(name)}</b>: {value:.1f} % of the variance of {objective}"
                for name, value in zip(ordered, values, strict=True)
            ],
        )
    figure.update_layout(
        layout(
            max(110 + len(ordered) * (14 + 16 * len(drawn)), 220),
            barmode="group",
            bargap=0.25,
            showlegend=len(drawn) > 1,
            xaxis=axis("share of the variance, %", rangemode="tozero"),
            yaxis=axis(
                "",
                tickmode="array",
                tickvals=list(range(len(ordered))),
                ticktext=labels,
                showgrid=False,
                ticks="",
            ),
        )
    )
    figure.update_layout(legend={"traceorder": "reversed"})
    # The number at the longest bar needs room as well.
    longest = max(100 * share for own in shares.values() for share in own.values())
    figure.update_xaxes(range=[0, 1.12 * longest or 1])
    known = dict.fromkeys(name for trial in page.trials for name in trial.params)
    missing = [name for name in known if name not in names]
    too_few = ""
    if missing:
        too_few = (
            f" Without a bar, because fewer than {FEWEST} finished trials have them or they did "
            f"not vary: {', '.join(plain(name, 24) for name in missing)}."
        )
    finished = sum(1 for trial in page.trials if trial.values)
    few = (
        f" With only {finished} finished trials, these shares are rough estimates."
        if finished < 30
        else ""
    )
    best = plain(ordered[-1])
    return PageFigure(
        "importances",
        title,
        "How much of the differences between trials each parameter alone explains, by fANOVA "
        "(random forests, logarithmic scales where the search has them). A parameter that only "
        "some trials have, such as α of GradOPS, is evaluated on those trials, so the bars need "
        f"not add up to 100.{too_few}{few}",
        f"Bar chart of {len(ordered)} parameters. The most important is {best}.",
        figure,
        printed={"height": max(90 + len(ordered) * (8 + 12 * len(drawn)), 200)},
        narrow=NARROW | {"yaxis.tickfont.size": 10},
    )
