"""The measured conflicts: layers against severities."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from libmtl_recon_search.page.model import Page
from libmtl_recon_search.page.style import INK, PageFigure, axis, ending, layout, plain, shown
from numpy.typing import NDArray

from libmtl_recon import ConflictProfile

_STEP = 0.025
_PER_UNIT = 200  # of the profile's grid
_VISIBLE = 0.5  # %
_MOST = 150  # the largest number of layers for which a page has room
# Dark is a large fraction; on a square-root scale, so that rare conflicts are visible.
_COLORS = ("#ffffff", "#fee8c8", "#fdbb84", "#ef6548", "#b30000", "#5f0000")
_SCALE = [[(i / (len(_COLORS) - 1)) ** 2, color] for i, color in enumerate(_COLORS)]


def conflict_figure(page: Page) -> PageFigure:
    """Draw the fraction of the cosines below each severity, layer by layer."""
    title = "Gradient conflicts"
    profile = page.profile
    if profile is None or not profile.architecture:
        return PageFigure(
            *("conflicts", title, "", ""),
            None,
            "No conflicts were measured: the search does not score layers, or has not done so yet.",
        )
    severities, shares = _shares(profile, page.severity)
    scores = profile.scores(page.severity)
    rows = _rows(profile, page.severity)
    names = [shown(profile.layer_names[row], 200) for row in rows]
    worst = max(scores.values(), default=0)
    dark = [worst > 0 and scores[profile.layer_names[row]] > worst / 2 for row in rows]
    high = len(rows)
    row_height, font = (16, 11) if high <= 80 else (11, 9)
    figure = go.Figure(
        go.Heatmap(
            x=severities.tolist(),
            y=names,
            z=np.round(shares[rows], 3).tolist(),
            zmin=0,
            zmax=max(float(shares[rows].max()), 1.0),
            colorscale=_SCALE,
            xgap=1,
            ygap=1,
            customdata=[[_layer(profile, row)] * len(severities) for row in rows],
            hovertemplate="<b>%{y}</b><br>%{customdata}<br>%{z:.2f} % below %{x}<extra></extra>",
            colorbar={
                "title": {"text": "%", "font": {"size": 11}},
                "thickness": 12,
                "len": 200,
                "lenmode": "pixels",
                "y": 1,
                "yanchor": "top",
                "outlinewidth": 0,
                "tickfont": {"size": 11},
            },
        )
    )
    figure.update_layout(
        layout(
            max(96 + row_height * high, 300),
            xaxis=axis("severity S: a cosine below it is a conflict", showgrid=False, nticks=8),
            yaxis=axis(
                "",
                type="category",
                autorange="reversed",
                showgrid=False,
                tickmode="array",
                tickvals=names,
                ticktext=_ticks(profile, rows, dark, 40),
                tickfont={"size": font},
                ticks="",
            ),
            shapes=[
                {
                    "type": "rect",
                    "x0": page.severity - _STEP / 2,
                    "x1": page.severity + _STEP / 2,
                    "y0": 0,
                    "y1": 1,
                    "yref": "paper",
                    "line": {"color": INK, "width": 1.6},
                }
            ],
            annotations=[
                {
                    "x": page.severity,
                    "y": 1,
                    "yref": "paper",
                    "yanchor": "bottom",
                    "text": f"S = {page.severity:g}",
                    "showarrow": False,
                }
            ],
        )
    )
    total = len(profile.architecture)
    left_out = f" Of {total:,} layers, the {_MOST} worst are shown." if total > high else ""
    first = plain(profile.ranking(page.severity)[0], 60)
    return PageFigure(
        "conflicts",
        title,
        "Rows are layers in network order. The darker a cell, the larger the share of steps and "
        "pairs of tasks in which the cosine of the two gradients is below the severity S on the "
        f"horizontal axis. The frame marks S = {page.severity:g}; layers in bold have more than "
        "half of the worst layer's conflicts there, and are the first that Recon "
        f"splits.{left_out} Measured in {profile.steps:,} steps with {len(profile.tasks)} tasks.",
        f"Heat map of {high} layers by severity. Most conflicts below {page.severity:g}: {first}, "
        f"{shares_at(profile, page.severity):.1f} %.",
        figure,
        narrow={
            "font.size": 11,
            "dragmode": False,
            "margin.l": 8,
            "margin.r": 8,
            "yaxis.ticktext": _ticks(profile, rows, dark, 20),
            "yaxis.tickfont.size": min(font, 10),
            "xaxis.title.text": "severity S",
            "xaxis.nticks": 5,
        },
        # A figure that is higher than a page of A4 is drawn with a smaller height.
        printed={"height": 860, "yaxis.tickfont.size": max(min(font, 700 / high), 4)}
        if row_height * high > 760
        else {},
    )


def shares_at(profile: ConflictProfile, severity: float) -> float:
    """Return the percentage of the worst layer's cosines below a severity."""
    severities, shares = _shares(profile, severity)
    place = int(np.argmin(np.abs(severities - severity)))
    return float(shares[:, place].max())


def _shares(
    profile: ConflictProfile, severity: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return severities ``[columns]``, with the given one, and percentages ``[L, columns]``."""
    step = round(_STEP * _PER_UNIT)
    here = round((severity + 1) * _PER_UNIT)
    below = np.arange(here % step or step, _PER_UNIT + 1, step)
    counts = np.concatenate([np.zeros((len(profile.histogram), 1)), profile.histogram], axis=1)
    totals = np.cumsum(counts, axis=1)[:, below]
    defined = np.maximum(profile.steps * profile.pairs - profile.undefined.sum(axis=0), 1)
    shares: NDArray[np.float64] = 100.0 * totals / defined[:, None]
    # The first column with visible conflicts, but with at least some columns to compare.
    filled = np.flatnonzero(shares.max(axis=0) > _VISIBLE)
    start = min(
        int(filled[0]) if len(filled) else len(below),
        int(np.searchsorted(below, here)),
        max(len(below) - 8, 0),
    )
    return np.round(below[start:] / _PER_UNIT - 1, 3), shares[:, start:]


def _rows(profile: ConflictProfile, severity: float) -> list[int]:
    place = {name: index for index, name in enumerate(profile.layer_names)}
    return sorted(place[name] for name in profile.ranking(severity)[:_MOST])


def _ticks(profile: ConflictProfile, rows: list[int], dark: list[bool], longest: int) -> list[str]:
    found = []
    for row, bold in zip(rows, dark, strict=True):
        name = ending(profile.layer_names[row], longest)
        found.append(f"<b>{name}</b>" if bold else name)
    return found


def _layer(profile: ConflictProfile, row: int) -> str:
    layer: Any = profile.architecture[row]
    return f"{shown(layer.type)}, {layer.parameters:,} parameters"
