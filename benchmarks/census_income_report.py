"""The report of the Census-Income study: table, picture, and the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata, t

BASE = "EW"  # uniform scaling
POINTS = 100.0  # AUC is shown in hundredths
COLORS = ("#3b6fb6", "#d9822b", "#4a9a5c", "#222222")


@dataclass(frozen=True)
class Result:
    """The result of a training, at the epoch with the best mean validation AUC.

    Attributes:
        method: The name in the table.
        seed: The seed of the weights and of the order of batches.
        epoch: The epoch, counted from 1.
        train: Each task's AUC during training, with dropout.
        test: Each task's AUC on the test data.
        seconds: CPU time of the whole training.
    """

    method: str
    seed: int
    epoch: int
    train: dict[str, float]
    test: dict[str, float]
    seconds: float

    @classmethod
    def read(cls, record: dict[str, Any]) -> Result:
        """Create a result from the record of a training."""
        by_mode: dict[str, list[dict[str, float]]] = {"train": [], "val": [], "test": []}
        for one in record["passes"]:
            by_mode[one["mode"]].append(one["auc"])
        best = int(np.argmax([np.mean(list(auc.values())) for auc in by_mode["val"]]))
        train, test = by_mode["train"][best], by_mode["test"][best]
        method, seed, seconds = record["method"], record["seed"], record["seconds"]
        return cls(method, seed, best + 1, train, test, seconds)

    @property
    def alpha(self) -> float | None:
        """The exponent of GradOPS."""
        return float(self.method[8:-1]) if self.method.startswith("GradOPS(") else None


class Table:
    """The results as arrays ``[seed, task]``, the tasks' average last, in hundredths of AUC."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results
        self.tasks = list(results[0].test)
        self.columns = [*self.tasks, "average"]
        self.methods = list(dict.fromkeys(result.method for result in results))
        self.alphas = {r.method: r.alpha for r in results if r.alpha is not None}

    def values(self, method: str, part: str = "test") -> NDArray[np.float64]:
        """Return the values of a method ``[seeds, tasks + 1]``, in the order of the seeds."""
        own = sorted((r for r in self.results if r.method == method), key=lambda r: r.seed)
        rows = [[getattr(r, part)[task] for task in self.tasks] for r in own]
        aucs = POINTS * np.asarray(rows, dtype=np.float64)
        return np.column_stack([aucs, aucs.mean(axis=1)])

    def gains(self, method: str, base: str, part: str = "test") -> NDArray[np.float64]:
        """Return the gains of a method over another, per seed."""
        return self.values(method, part) - self.values(base, part)

    def ranks(self) -> dict[str, float]:
        """Return each method's rank among all (1 is best), averaged over the tasks."""
        means = np.stack([self.values(method).mean(axis=0)[:-1] for method in self.methods])
        ranks = np.stack([rankdata(-column) for column in means.T], axis=1).mean(axis=1)
        return dict(zip(self.methods, ranks.tolist(), strict=True))


def spread(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def sure(values: NDArray[np.float64]) -> int:
    """Return 1 or -1 if the mean's 95 % interval (Student's t) is above or below 0, else 0."""
    mean, error = spread(values)
    half = float(t.ppf(0.975, len(values) - 1)) * error
    return int(mean > half) - int(mean < -half)


def paired(gains: NDArray[np.float64]) -> str:
    """Return a difference as text: mean, standard error, and the number of seeds that agree."""
    mean, error = spread(gains)
    return f"{mean:+.3f} ± {error:.3f} ({int((gains > 0).sum())} of {len(gains)} seeds above 0)"


def markdown(table: Table) -> str:
    """Return the table: mean and standard deviation over the seeds."""
    ranks = table.ranks()
    head = [*(f"AUC {task}" for task in table.tasks), "average", "above EW", "mean rank", "epoch"]
    lines = ["| method | " + " | ".join(head) + " | CPU s |", "|---|" + "---:|" * (len(head) + 1)]
    for method in table.methods:
        values = table.values(method)
        moments = zip(values.mean(axis=0), values.std(axis=0, ddof=1), strict=True)
        cells = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in moments]
        own = [result for result in table.results if result.method == method]
        gain = (
            ""
            if method == BASE
            else "{:+.3f} ± {:.3f}".format(*spread(table.gains(method, BASE)[:, -1]))
        )
        epoch = np.mean([result.epoch for result in own])
        seconds = np.mean([result.seconds for result in own])
        cells += [gain, f"{ranks[method]:.1f}", f"{epoch:.1f}", f"{seconds:.0f}"]
        lines.append(
            f"| {method.replace('GradOPS(', 'GradOPS (α = ')} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines)


def claims(table: Table) -> list[str]:
    """Return the paper's claims about this data set (section 4.1), each with its answer."""
    lines = []
    if {"GradOPS(0)", "PCGrad"} <= set(table.methods):
        gains = table.gains("GradOPS(0)", "PCGrad")
        by_task = [sure(column) for column in gains.T[:-1]]
        parts = "; ".join(
            f"{name} {paired(column)}" for name, column in zip(table.columns, gains.T, strict=True)
        )
        lines.append(f"**α = 0 beats PCGrad in all tasks: {said(min(by_task))}.** {parts}.")
    negative = [m for m, alpha in table.alphas.items() if alpha < 0]
    if "GradOPS(0)" in table.methods and negative:
        over = {m: table.gains(m, "GradOPS(0)")[:, -1] for m in negative}
        above = [m for m in negative if over[m].mean() > 0]
        parts = "; ".join(f"α = {table.alphas[m]:g} {paired(over[m])}" for m in negative)
        verdicts = [sure(gains) for gains in over.values()]
        lines.append(
            f"**A negative α beats α = 0 in the average: {said(max(verdicts))}** ({len(above)} of "
            f"{len(negative)} do in the mean, {verdicts.count(1)} with a 95 % interval above 0). "
            f"{parts}."
        )
    if BASE in table.methods and table.alphas:
        over = {m: table.gains(m, BASE)[:, -1] for m in table.alphas}
        above = [m for m in over if over[m].mean() > 0]
        verdicts = [sure(gains) for gains in over.values()]
        most = 0.9 * len(over)
        verdict = int(verdicts.count(1) >= most) - int(len(over) - verdicts.count(-1) < most)
        parts = "; ".join(f"α = {table.alphas[m]:g} {paired(over[m])}" for m in over)
        lines.append(
            "**Almost every α from -10 to 5 beats uniform scaling in the average: "
            f"{said(verdict)}** ({len(above)} of {len(over)} in the mean; "
            f"with a 95 % interval above 0 {verdicts.count(1)}, below 0 {verdicts.count(-1)}). "
            f"{parts}."
        )
    return lines


def said(verdict: int) -> str:
    """Return a verdict of 1, -1 or 0 (undecided) in words."""
    return {1: "true", -1: "not true", 0: "not decided by these seeds"}[verdict]


def draw(table: Table, file: Path) -> None:
    """Draw Figure 7: the gain over uniform scaling against α, on training and on test data."""
    methods = sorted(table.alphas, key=lambda method: table.alphas[method])
    places = range(len(methods))
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, part in zip(figure.subplots(1, 2), ("train", "test"), strict=True):
        gains = np.stack([table.gains(method, BASE, part) for method in methods], axis=1)
        for column, (name, color) in enumerate(zip(table.columns, COLORS, strict=True)):
            axes.errorbar(
                [place + 0.06 * (column - 1.5) for place in places],
                gains[:, :, column].mean(axis=0),
                yerr=gains[:, :, column].std(axis=0, ddof=1) / math.sqrt(len(gains)),
                color=color,
                marker="o",
                markersize=4,
                linewidth=2.2 if name == "average" else 1.2,
                capsize=2,
                label=name,
            )
        axes.axhline(0, color="#777777", linestyle="--", linewidth=1, label="uniform scaling (EW)")
        axes.set_xticks(places, [f"{table.alphas[method]:g}" for method in methods])
        axes.set_xlabel("α of GradOPS")
        axes.set_ylabel("AUC above uniform scaling, hundredths")
        axes.set_title(f"{part} data", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.savefig(file, dpi=150)


def write_report(results: Sequence[Result], settings: dict[str, Any], folder: Path) -> str:
    """Write ``report.md`` and ``alpha.png``.

    Returns:
        The report.
    """
    table = Table(results)
    about = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "people")
    people = ", ".join(f"{count:,} {part}" for part, count in settings["people"].items())
    seeds = len({result.seed for result in results})
    lines = [
        f"{about}; records: {people}; {seeds} seeds.",
        "",
        "Test AUC in hundredths at the epoch with the best mean validation AUC; mean ± standard "
        "deviation over the seeds; above EW: paired by seed, mean ± standard error.",
        "",
        markdown(table),
        "",
        *(f"- {claim}" for claim in claims(table)),
    ]
    text = "\n".join(lines) + "\n"
    (folder / "report.md").write_text(text, "utf-8")
    if table.alphas and BASE in table.methods:
        draw(table, folder / "alpha.png")
    return text
