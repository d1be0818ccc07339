"""The figure of each task's share in Δm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go
from libmtl_recon_search.page.model import Page, PageTrial
from libmtl_recon_search.page.style import (
    INK,
    NARROW,
    OTHERS,
    PATTERNS,
    PageFigure,
    axis,
    hover,
    label,
    layout,
    plain,
    plural,
    shown,
)

_MOST = 12  # trials, in addition to the picked one and the reference


def task_figure(page: Page) -> PageFigure:
    """Draw stacked bars of gains and losses, whose sum is Δm."""
    title = "Each task's share in Δm"
    rows = _rows(page)
    if not rows:
        return PageFigure(
            *("tasks", title, "", ""),
            None,
            "No finished trial has values for each task yet.",
        )
    tasks = list(dict.fromkeys(task for _, trial in rows for task in trial.per_task))
    weights = {task: page.task_weights.get(task, 1.0) for task in tasks}
    shares = [_shares(trial.per_task, weights) for _, trial in rows]
    figure = go.Figure()
    places = list(range(len(rows)))
    for place, task in enumerate(tasks):
        figure.add_bar(
            orientation="h",
            y=places,
            x=[own.get(task) for own in shares],
            name=shown(task, 24),
            marker={
                "color": OTHERS[place % len(OTHERS)],
                "pattern": {
                    "shape": PATTERNS[place // len(OTHERS) % len(PATTERNS)],
                    "bgcolor": OTHERS[place % len(OTHERS)],
                    "fgcolor": "white",
                    "size": 6,
                },
                "line": {"color": "white", "width": 0.8},
            },
            hoverinfo="text",
            hovertext=[
                f"<b>{shown(task)}</b>: Δ {trial.per_task.get(task, math.nan):+.2f} %, "
                f"share in Δm {own.get(task, math.nan):+.2f}<br>{hover(trial, page.objectives)}"
                for (_, trial), own in zip(rows, shares, strict=True)
            ],
        )
    sums = [sum(own.values()) for own in shares]
    figure.add_scatter(
        x=sums,
        y=places,
        mode="markers",
        name="Δm",
        marker={
            "symbol": "diamond",
            "size": 11,
            "color": "white",
            "line": {"color": INK, "width": 2},
        },
        hoverinfo="text",
        hovertext=[
            f"Δm {total:+.2f} %<br>{hover(trial, page.objectives)}"
            for (_, trial), total in zip(rows, sums, strict=True)
        ],
    )
    figure.update_layout(
        layout(
            max(110 + 30 * len(rows), 240 if len(tasks) < 8 else 60 + 22 * len(tasks)),
            barmode="relative",
            bargap=0.28,
            xaxis=axis("points of Δm, %", zeroline=True, zerolinecolor=INK, zerolinewidth=1.2),
            yaxis=axis(
                "",
                tickmode="array",
                tickvals=places,
                ticktext=[name for name, _ in rows],
                autorange="reversed",
                showgrid=False,
                ticks="",
            ),
        )
    )
    weighed = ","
    if page.task_weights:
        weighed = ", weighted as in the configuration,"
    hurt = [task for task in tasks if (rows[0][1].per_task.get(task) or 0.0) < 0]
    losing = f" In it, {', '.join(plain(task, 24) for task in hurt[:5])} lose." if hurt else ""
    return PageFigure(
        "tasks",
        title,
        f"Δm is the mean over tasks of their improvement over single-task training{weighed} so "
        "each task contributes a part: to the right if it is better than its single-task "
        "network, to the left if it is worse. The parts add up to Δm, the diamond. The figure "
        "shows the trials with the highest Δm that satisfy the constraints"
        + (", the picked one, and EW with plain sharing." if page.reference else "."),
        f"Stacked bars of {plural(len(tasks), 'task')} for {plural(len(rows), 'trial')}. The "
        f"first has a Δm of {sums[0]:+.2f} %.{losing}",
        figure,
        printed={"height": max(110 + 15 * len(rows), 100 + 20 * (len(tasks) + 2), 220)},
        narrow=NARROW | {"legend.y": -0.16, "height": figure.layout.height + 14 * len(tasks)},
    )


def _rows(page: Page) -> list[tuple[str, PageTrial]]:
    """Return names and trials, best first and EW last."""
    usable = [t for t in page.trials if t.values and _finite(t.per_task)]
    best = sorted(
        (trial for trial in usable if trial.feasible or trial.picked),
        key=lambda trial: (not trial.picked, -_delta(page, trial)),
    )
    rows = [(_name(trial), trial) for trial in best[: _MOST + 1]]
    if page.reference is not None and _finite(page.reference.per_task):
        rows.append(("EW, plain", page.reference))
    return rows


def _finite(per_task: Mapping[str, float]) -> bool:
    return bool(per_task) and any(map(math.isfinite, per_task.values()))


def _name(trial: PageTrial) -> str:
    return f"<b>{label(trial)}, picked</b>" if trial.picked else label(trial)


def _delta(page: Page, trial: PageTrial) -> float:
    weights = {task: page.task_weights.get(task, 1.0) for task in trial.per_task}
    return sum(_shares(trial.per_task, weights).values())


def _shares(per_task: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Return the contribution of each task to the mean, without tasks that have no value."""
    own = {task: value for task, value in per_task.items() if math.isfinite(value)}
    total = sum(weights[task] for task in own)
    return {task: weights[task] * value / total for task, value in own.items()}
