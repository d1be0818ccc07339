"""The tables and the picture of the pruning study."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning_measures import TOP, Measures, agreement, interval
from pruning_replay import warm_up
from pruning_table import Problem, Table

from libmtl_recon.pictures import new_figure, write_picture

NONE = "none"
_BLUE, _RED, _GREY = "#3b6fb6", "#b0413e", "0.55"


@dataclass(frozen=True)
class Found:
    """The results of a problem's replays with one sampler.

    Attributes:
        problem: The problem.
        table: Its learning curves.
        sampler: The sampler that chose plans.
        trials: The number of trials of a search.
        by_seed: ``by_seed[pruner][training seed]``, means over the searches.
    """

    problem: Problem
    table: Table
    sampler: str
    trials: int
    by_seed: Mapping[str, Mapping[int, Measures]]

    @property
    def budget(self) -> int:
        """Return the number of epochs of a search without early ends."""
        return self.trials * self.problem.epochs

    def values(self, pruner: str, name: str) -> list[float]:
        """Return a measure for each training seed."""
        return [getattr(measures, name) for measures in self.by_seed[pruner].values()]

    def mean(self, pruner: str, name: str) -> float:
        """Return a measure's mean over the training seeds, without NaN."""
        values = [value for value in self.values(pruner, name) if not math.isnan(value)]
        return statistics.mean(values) if values else math.nan

    def worse(self, pruner: str, name: str) -> list[float]:
        """Return, per training seed, the difference of a measure to the search without pruning."""
        pairs = zip(self.values(pruner, name), self.values(NONE, name), strict=True)
        return [own - plain for own, plain in pairs]


def tables(found: Found) -> str:
    """Return all measures of a problem and a sampler as a table."""
    seeds, searches = len(found.table), f"searches by {found.sampler}"
    plain = found.by_seed[NONE]
    test = statistics.mean(measures.test for measures in plain.values())
    lines = [
        f"## {found.problem.name}, {searches}",
        "",
        f"{len(found.problem.plans)} plans, {seeds} training seed{'s' * (seeds > 1)}, "
        f"{found.trials} trials of {found.problem.epochs} epochs. Without pruning the regret is "
        f"{statistics.mean(m.val for m in plain.values()):.2f} on validation data"
        + ("." if math.isnan(test) else f", and {test:.2f} on test data over the other seeds."),
        "",
        f"| pruner | epochs | ended early | of these in the top {TOP} | searches that lost | "
        "lost | + regret, val | + regret, test | trials in equal epochs | + regret, val | "
        "+ regret, test |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for pruner in found.by_seed:
        cells = [
            pruner,
            f"{100 * found.mean(pruner, 'epochs') / found.budget:.0f} %",
            f"{100 * found.mean(pruner, 'ended'):.0f} %",
            _percent(found.mean(pruner, "good")),
            f"{100 * found.mean(pruner, 'loses'):.0f} %",
            f"{found.mean(pruner, 'lost'):.2f}",
            _plus_minus(found.worse(pruner, "val")),
            _plus_minus(found.worse(pruner, "test")),
            f"{found.mean(pruner, 'more'):.1f}",
            _plus_minus(found.worse(pruner, "val_equal")),
            _plus_minus(found.worse(pruner, "test_equal")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def agreement_table(all_found: Sequence[Found]) -> str:
    """Return a table of the correlation of the order of plans with the final order, by epoch."""
    lines = ["## Rank correlation of the best Δm up to an epoch with the final one", ""]
    longest = max(found.problem.epochs for found in all_found)
    lines.append(f"| problem | {' | '.join(str(e + 1) for e in range(longest))} |")
    lines.append(f"|---|{'---:|' * longest}")
    for found in _one_a_problem(all_found):
        cells = [f"{value:.2f}" for value in agreement(found.table)]
        cells += [""] * (longest - len(cells))
        lines.append(f"| {found.problem.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary_table(all_found: Sequence[Found], sampler: str) -> str:
    """Return the table of all problems, in which each training seed of each problem is a sample."""
    of = [found for found in all_found if found.sampler == sampler]
    count = sum(len(found.table) for found in of)
    lines = [
        f"## Both together, searches by {sampler}, {count} training seeds",
        "",
        "| pruner | epochs | + regret, val | + regret, test | in equal epochs: + regret, val | "
        "+ regret, test |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for pruner in of[0].by_seed:
        spent = [v / found.budget for found in of for v in found.values(pruner, "epochs")]
        cells = [pruner, f"{100 * statistics.mean(spent):.0f} %"]
        for name in ("val", "test", "val_equal", "test_equal"):
            cells.append(_plus_minus([v for found in of for v in found.worse(pruner, name)]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(all_found: Sequence[Found], sampler: str, file: Path) -> None:
    """Draw the learning curves, and the savings and costs of each pruner.

    Args:
        all_found: The results of all problems.
        sampler: The sampler whose searches are drawn.
        file: The picture's file.
    """
    of = [found for found in all_found if found.sampler == sampler]
    figure = new_figure(12, 5 * len(of))
    axes = figure.subplots(len(of), 3, squeeze=False, width_ratios=(5, 3, 4))
    for (left, middle, right), found in zip(axes, of, strict=True):
        _draw_curves(left, found)
        _draw_costs(middle, right, found)
    write_picture(figure, file)


def _draw_curves(axes: Any, found: Found) -> None:
    """Draw the best value so far of all plans, with the first seed; darker is a higher K."""
    from matplotlib import colormaps

    seed, curves = next(iter(found.table.items()))
    colors, named = colormaps["viridis_r"], set()
    epochs = range(1, found.problem.epochs + 1)
    last = [curve.best for curve in curves.values()]
    for plan, curve in curves.items():
        reached = [max(curve.val[:epoch]) for epoch in epochs]
        label = None if plan.k in named else f"K = {plan.k}"
        named.add(plan.k)
        color = colors(0.15 + 0.85 * plan.k / found.problem.ks[-1])
        axes.plot(epochs, reached, color=color, linewidth=1.1, label=label)
    for share, color in ((1 / 3, _RED), (1 / 2, _BLUE)):
        # This is the first epoch after which a pruner may end a training.
        axes.axvline(warm_up(found.problem.epochs, share) + 1, color=color, lw=1, ls="--")
    axes.set_ylim(min(last) - 3 * (max(last) - min(last)), max(last) + 1)
    axes.set_xlabel("epoch (dashed: the first to end after, warm-up 1/3 and 1/2)")
    axes.set_ylabel("best Δm so far, validation (%)")
    axes.set_title(f"{found.problem.name}: all plans, seed {seed}", fontsize=10)
    axes.legend(loc="lower right", fontsize=8)


def _draw_costs(spent: Any, lost: Any, found: Found) -> None:
    """Draw one row per pruner: its epochs, and its loss."""
    rows = list(found.by_seed)
    colors = {NONE: "0.2", "Median 5, 1/3": _RED, "Median 8, 1/2": _BLUE}
    for row, pruner in enumerate(rows):
        color = colors.get(pruner, _GREY)
        share = 100 * found.mean(pruner, "epochs") / found.budget
        spent.barh(row, share, color=color, height=0.6)
        spent.annotate(f"{share:.0f}", (share, row), (2, -3), textcoords="offset points", size=7)
        values = found.worse(pruner, "val")
        middle, reach = interval(values)
        lost.plot(values, [row] * len(values), "|", color=color, markersize=6, alpha=0.6)
        bar = reach if len(values) > 2 else None  # an interval of two values is not informative
        lost.errorbar(middle, row, xerr=bar, fmt="o", markersize=4, linewidth=1, color=color)
    for axes in (spent, lost):
        axes.set_ylim(len(rows) - 0.4, -0.6)
    spent.set_yticks(range(len(rows)), rows, fontsize=8)
    spent.set_xlim(0, 112)
    spent.set_xlabel("epochs spent (%)")
    spent.set_title(f"{found.trials} trials by {found.sampler}", fontsize=10)
    lost.set_yticks([])
    lost.axvline(0, color="0.7", linewidth=1, zorder=0)
    lost.set_xlabel("regret above no pruning (points of Δm)")
    lost.set_title("on validation data, by training seed (ticks)", fontsize=10)


def _one_a_problem(all_found: Sequence[Found]) -> list[Found]:
    return list({found.problem.name: found for found in all_found}.values())


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def _plus_minus(values: Sequence[float]) -> str:
    middle, reach = interval(values)
    if math.isnan(middle):
        return "–"
    text = f"{middle:+.2f}"
    if len(values) == 2:  # an interval of two values is not informative
        return f"{text} ({min(values):+.2f}, {max(values):+.2f})"
    return text if math.isnan(reach) else f"{text} ± {reach:.2f}"
