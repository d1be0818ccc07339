"""Learning curves of all trials."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
from libmtl_recon_search.page.model import Page, PageTrial
from libmtl_recon_search.page.style import (
    INK,
    NARROW,
    PRINTED,
    PageFigure,
    axis,
    label,
    layout,
    most,
    paragraph,
    plain,
    plural,
    shown,
    styles,
)

_DASHES = {"finished": "solid", "baseline": "solid", "ended early": "dash"}


def curve_figure(page: Page) -> PageFigure:
    """Draw the objective after each epoch, one line per trial."""
    title = "Learning curves"
    trials = [t for t in page.trials if any(map(math.isfinite, t.curve))]
    if not trials:
        return PageFigure(
            *("curves", title, "", ""),
            None,
            "No trial has completed an epoch yet: this figure appears with the first one.",
        )
    look = styles(page)
    faint = 0.85 if len(trials) <= 12 else 0.55 if len(trials) <= 60 else 0.3
    figure = go.Figure()
    for name in dict.fromkeys(trial.weighting for trial in trials):
        # For the legend only, as a solid dark line whatever its first trial is.
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            name=shown(name, 24),
            legendgroup=shown(name),
            line={"color": look[name].color, "width": 2.4},
        )
    for trial in sorted(trials, key=lambda trial: trial.picked):  # the picked one on top
        _add(
            figure,
            trial,
            name="picked" if trial.picked else "",
            legendgroup=None if trial.picked else shown(trial.weighting),
            showlegend=trial.picked,
            opacity=1.0 if trial.picked else faint,
            line={
                "color": look[trial.weighting].color,
                "dash": _DASHES.get(trial.state, "dot"),
                "width": 4 if trial.picked else 1.5,
            },
        )
    if page.reference is not None and any(map(math.isfinite, page.reference.curve)):
        _add(
            figure,
            page.reference,
            name="EW, plain sharing",
            line={"color": INK, "width": 2.4},
        )
    drawn = [*trials, *([page.reference] if page.reference else [])]
    later = [v for t in drawn for v in t.curve[len(t.curve) // 4 :] if math.isfinite(v)]
    near = most(later) or (min(later), max(later))
    every = [v for t in drawn for v in t.curve if math.isfinite(v)]
    room = 0.05 * (near[1] - near[0]) or 1.0
    zoomed = (near[0] - room > min(every)) or (near[1] + room < max(every))
    figure.update_layout(
        layout(
            460,
            xaxis=axis("epoch", nticks=9, tickformat="d"),
            yaxis=axis(
                shown(page.curve_of, 60),
                zeroline=True,
                zerolinecolor="#9aa1ab",
                range=[near[0] - room, near[1] + room] if zoomed else None,
            ),
        )
    )
    longest = max(len(trial.curve) for trial in trials)
    if longest < 9:
        figure.update_xaxes(dtick=1)
    early = sum(1 for trial in trials if trial.state == "ended early")
    said = [f"{plain(page.curve_of, 60)} after each epoch, coloured by weighting."]
    said += ["Dashed lines: trials that were ended early."] if early else []
    if any(trial.state not in _DASHES for trial in trials):
        said += ["Dotted lines: trials that failed, were interrupted or are still running."]
    said += ["Thick line: the picked trial."] if any(t.picked for t in trials) else []
    said += ["Black: EW with plain sharing."] if page.reference is not None else []
    said += ["Hover over a line to see its plan."]
    if zoomed:
        said += [
            "The axis shows the range in which the curves end; double-click to show everything."
        ]
    return PageFigure(
        "curves",
        title,
        " ".join(said),
        f"Line chart of {plural(len(trials), 'learning curve')} over {plural(longest, 'epoch')}; "
        f"{early} were ended early.",
        figure,
        narrow=NARROW,
        printed=PRINTED,
    )


def _add(figure: go.Figure, trial: PageTrial, **more: Any) -> None:
    points = [(place, v) for place, v in enumerate(trial.curve, 1) if math.isfinite(v)]
    single = len(points) == 1
    figure.add_scatter(
        x=[place for place, _ in points],
        y=[value for _, value in points],
        mode="lines+markers" if single else "lines",
        text=f"<b>{label(trial)}</b>, {trial.state}<br>{paragraph(trial.plan)}",
        hovertemplate="%{text}<br>epoch %{x}: <b>%{y:.4g}</b><extra></extra>",
        **more,
    )
