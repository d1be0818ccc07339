"""The picture of a search: Δm against parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_COLORS = ("#3b6fb6", "#d9822b", "#4a9a5c", "#8a5fa8", "#a33b3b", "#5c5c5c")


@dataclass(frozen=True)
class Dot:
    """A trained plan.

    Attributes:
        weighting: Its weighting, by which it is coloured.
        parameters: Of its network.
        improvement: Its Δm.
    """

    weighting: str
    parameters: int
    improvement: float


def draw_improvement(
    dots: Sequence[Dot], reference: Dot, best: Dot, single_task: int, on: str, file: Path
) -> None:
    """Draw Δm against the number of parameters, one dot a plan.

    Args:
        dots: The plans.
        reference: EW with plain sharing.
        best: The best plan.
        single_task: The parameters of the single-task networks together.
        on: The data on which Δm was measured.
        file: A .png, .svg or .pdf file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(0, color="#444444", linewidth=0.8)
    axes.axvline(single_task, color="#444444", linewidth=0.8, linestyle=":")
    for color, weighting in zip(_COLORS, dict.fromkeys(d.weighting for d in dots), strict=False):
        own = [dot for dot in dots if dot.weighting == weighting]
        x, y = [dot.parameters for dot in own], [dot.improvement for dot in own]
        axes.scatter(x, y, s=42, color=color, alpha=0.8, edgecolors="none", label=weighting)
    for dot, name in ((reference, "EW, plain sharing"), (best, "best")):
        at = (dot.parameters, dot.improvement)
        axes.scatter(*at, s=150, facecolors="none", edgecolors="black", linewidths=1.2)
        left = dot.parameters > 0.6 * single_task
        axes.annotate(
            name, at, (-10 if left else 10, -4), textcoords="offset points",
            ha="right" if left else "left",
        )  # fmt: skip
    axes.annotate(
        "single-task networks", (single_task, 0), (-6, 6), textcoords="offset points", ha="right"
    )
    axes.set_xlim(0, 1.05 * max(single_task, *(dot.parameters for dot in dots)))
    axes.set_xlabel("parameters of the whole network")
    axes.set_ylabel(f"Δm on {on} data, %")
    axes.set_title("Average relative improvement over single-task training")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="weighting", loc="lower right", frameon=False)
    figure.savefig(file, dpi=150)
