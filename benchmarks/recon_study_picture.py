"""The pictures of the Recon study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recon_study_results import SHOWN, K, Results, S

from libmtl_recon.pictures import new_figure, write_picture
from libmtl_recon.reproduction.dose_picture import draw_dose

_COLORS = ("#222222", "#3b6fb6", "#4a9a5c", "#d9822b", "#b0413e", "#8a63a8")
_BELOW = -0.02


def draw(results: Results, folder: Path) -> None:
    """Write methods.png, and dose.png if K or S were varied."""
    figure = new_figure(11, 4.2)
    gains, conflicts = figure.subplots(1, 2, width_ratios=(3, 2))
    _gains(gains, results)
    _conflicts(conflicts, results)
    gains.legend(loc="lower right", ncols=3, fontsize=8)
    write_picture(figure, folder / "methods.png")
    if len({(t.k, t.s) for t in results.doses}) > 1:
        _dose(results, folder / "dose.png")


def _gains(axes: Any, results: Results) -> None:
    """Draw one point per weighting and choice of layers, with the standard deviation over seeds."""
    count = len(results.weightings)
    for index, weighting in enumerate(results.weightings):
        shift = (index - (count - 1) / 2) * 0.8 / count
        rows = [
            (place, [results.gain(t) for t in results.pick(weighting, select)])
            for place, select in enumerate(results.selections)
        ]
        _points(axes, [(place + shift, own) for place, own in rows], index, weighting)
    axes.axhline(0, color="0.6", linewidth=1, zorder=0)
    axes.set_xticks(range(len(results.selections)), [SHOWN[s] for s in results.selections])
    axes.set_ylabel("Δm over single-task training (%)")
    axes.set_title(f"Test accuracy by how the {K} layers were chosen", fontsize=10)


def _points(axes: Any, rows: Sequence[tuple[float, list[float]]], color: int, label: str) -> None:
    there = [(x, own) for x, own in rows if own]
    axes.errorbar(
        [x for x, _ in there],
        [np.mean(own) for _, own in there],
        yerr=[np.std(own, ddof=1) if len(own) > 1 else 0 for _, own in there],
        fmt="o",
        markersize=4,
        linewidth=1,
        color=_COLORS[color % len(_COLORS)],
        label=label,
    )


def _conflicts(axes: Any, results: Results) -> None:
    """Draw the severe conflicts in the layers that each choice keeps shared, before and after."""
    split = [s for s in results.selections if s != "none"]
    for place, select in enumerate(split):
        every = [results.before_and_after(w, select, _BELOW) for w in results.weightings]
        before, after = np.concatenate(every).mean(axis=0)
        first = place == 0
        axes.plot((before, after), (place, place), "-", color="0.7", linewidth=2, zorder=1)
        axes.plot(
            before, place, "o", color="white", mec="0.4", label="all shared" if first else None
        )
        axes.plot(after, place, "o", color=_COLORS[1], label="these split" if first else None)
    axes.set_yticks(range(len(split)), [SHOWN[s] for s in split])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"cos < {_BELOW:g} (% of steps and layers)")
    axes.set_title("Conflicts in the layers that stay shared", fontsize=10)
    axes.legend(loc="lower left", fontsize=8)


def _dose(results: Results, file: Path) -> None:
    by_k: dict[float, list[float]] = {0: [results.gain(t) for t in results.pick("EW", "none")]}
    for training in results.doses:
        if training.s == S:
            by_k.setdefault(training.k, []).append(results.gain(training))
    counts = {
        k: len({t.s for t in results.doses if t.k == k}) for k in {t.k for t in results.doses}
    }
    k = max(counts, key=lambda one: counts[one])
    by_s: dict[float, list[float]] = {}
    for training in results.doses:
        if training.k == k:
            by_s.setdefault(training.s, []).append(results.gain(training))
    draw_dose(by_k, by_s, k, S, file)
