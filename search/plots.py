"""The picture of a search: Δm against parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from libmtl_recon.texts import bounded, printable

_MARKERS = "os^vDP*X"
_COLORS = ("#3b6fb6", "#d9822b", "#4a9a5c", "#8a5fa8", "#a33b3b", "#5c5c5c")


@dataclass(frozen=True)
class Dot:
    """A trained plan.

    Attributes:
        weighting: Its weighting, which determines the colour.
        parameters: The number of parameters of its network.
        improvement: Its Δm.
        whole: Whether it was trained to the end.
    """

    weighting: str
    parameters: int
    improvement: float
    whole: bool = True


def draw_improvement(
    dots: Sequence[Dot], reference: Dot, best: Dot, single_task: int, on: str, file: Path
) -> None:
    """Draw Δm against the number of parameters, one dot per plan.

    Args:
        dots: The plans; those that were ended early are drawn hollow, at their best values.
        reference: EW with plain sharing.
        best: The best plan.
        single_task: The total number of parameters of the single-task networks.
        on: The data on which Δm was measured.
        file: A .png, .svg or .pdf file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(0, color="#777777", linewidth=0.8)
    for place, weighting in enumerate(dict.fromkeys(d.weighting for d in dots)):
        color = _COLORS[place % len(_COLORS)]
        marker = _MARKERS[place // len(_COLORS) % len(_MARKERS)]
        for whole, face in ((True, color), (False, "none")):
            own = [dot for dot in dots if dot.weighting == weighting and dot.whole is whole]
            axes.scatter(
                [dot.parameters for dot in own],
                [dot.improvement for dot in own],
                s=42,
                facecolors=face,
                edgecolors=color,
                marker=marker,
                label=_name(weighting, whole) if own else None,
            )
    # Named in the legend and not next to them, where names would overlap.
    for dot, name, line in ((reference, "EW, plain sharing", ":"), (best, "best", "-")):
        axes.scatter(
            dot.parameters,
            dot.improvement,
            s=150 if dot is best else 190,
            facecolors="none",
            edgecolors="black",
            linewidths=1.2,
            linestyle=line,
            label=name,
        )
    axes.plot(
        single_task,
        0,
        marker="D",
        color="black",
        markersize=7,
        linestyle="none",
        label="single-task networks",
    )
    axes.margins(0.12, 0.16)
    axes.set_xlabel("parameters of the whole network")
    axes.set_ylabel(f"Δm on {on} data, %")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_title("Average relative improvement over single-task training", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8.5)
    figure.savefig(file, dpi=150)


def _name(weighting: str, whole: bool) -> str:
    plain = bounded(printable(weighting), 30).replace("$", r"\$")  # not a formula
    return plain if whole else f"{plain}, ended early"
