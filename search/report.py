"""What a search ends with: a table, the command for the best, pictures, files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from search.objective import Metrics
from search.session import Baseline, Outcome
from search.space import Plan


@dataclass(frozen=True)
class Spread:
    """A quantity over several seeds.

    Attributes:
        mean: Its mean.
        sd: Its standard deviation; None for a single value.
        values: One for each seed.
    """

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, tuple(values))

    def __str__(self) -> str:
        return f"{self.mean:+.2f}" + ("" if self.sd is None else f" ± {self.sd:.2f}")


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: Of the method.
        metrics: On the test data, means over the seeds.
        val: Δm on the data on which configurations were compared, with the search's seed.
        test: Δm on the test data, over the fresh seeds.
        parameters: The network's, or the networks'.
    """

    name: str
    metrics: Metrics
    val: float
    test: Spread
    parameters: int


@dataclass(frozen=True)
class Report:
    """The end of a search.

    Attributes:
        rows: Single-task, EW with plain sharing, the best.
        best: The best plan.
        gain: Δm of the best minus that of EW on the test data, seed by seed.
        seeds: The seeds of the comparison.
        on: The data on which configurations were compared.
        command: Reproduces the best trial.
        pictures: The pictures that were drawn.
    """

    rows: tuple[Row, ...]
    best: Plan
    gain: Spread
    seeds: tuple[int, ...]
    on: str
    command: str
    pictures: tuple[Path, ...]

    def print(self) -> None:
        """Print the table and what to do next."""
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=140)
        table = Table(title="Test data, mean over seeds " + ", ".join(map(str, self.seeds)))
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if number else "left")
        for row in self.cells:
            table.add_row(*row)
        console.print(table)
        console.print(f"\n{self.verdict}\n", markup=False, soft_wrap=True)
        console.print("Reproduce the best trial:", markup=False)
        console.print(f"  {self.command}\n", markup=False, soft_wrap=True)
        for picture in self.pictures:
            console.print(f"Picture: {picture}", markup=False, soft_wrap=True)

    @property
    def headings(self) -> list[str]:
        """The table's columns."""
        metrics = [f"{task} {name}" for task, own in self.rows[0].metrics.items() for name in own]
        return ["", *metrics, f"Δm {self.on} %", "Δm test % (mean ± sd)", "parameters"]

    @property
    def cells(self) -> list[list[str]]:
        """The table's rows."""
        return [
            [
                row.name,
                *(f"{value:.4f}" for own in row.metrics.values() for value in own.values()),
                f"{row.val:+.2f}",
                str(row.test),
                f"{row.parameters:,}",
            ]
            for row in self.rows
        ]

    @property
    def verdict(self) -> str:
        """Whether the best beats EW on data that the search never saw."""
        better = sum(1 for value in self.gain.values if value > 0)
        return (
            f"On held-out test data the best, {self.best.title}, changes Δm by {self.gain} "
            f"points against EW with plain sharing; it is better in {better} of "
            f"{len(self.seeds)} seeds."
        )

    def save(self, folder: Path) -> None:
        """Write report.md and report.json."""
        lines = [
            "# Search report",
            "",
            "| " + " | ".join(self.headings) + " |",
            "|---" * len(self.headings) + "|",
            *("| " + " | ".join(cells) + " |" for cells in self.cells),
            "",
            f"Test data, mean over seeds {', '.join(map(str, self.seeds))}. {self.verdict}",
            "",
            "Reproduce the best trial:",
            "",
            f"    {self.command}",
            "",
            f"Its split layers, worst first: {', '.join(self.best.layers) or 'none'}",
            "",
            *(f"![{picture.stem}]({picture.name})\n" for picture in self.pictures),
        ]
        (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")
        data: dict[str, Any] = asdict(self)
        data["pictures"] = [str(picture) for picture in self.pictures]
        (folder / "report.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def single_task_row(baselines: Sequence[Baseline]) -> Row:
    """The line to which the others are compared."""
    metrics = _mean_metrics([baseline.test for baseline in baselines])
    return Row(
        "single-task", metrics, 0.0, Spread.of([0.0] * len(baselines)), baselines[0].parameters
    )


def plan_row(name: str, searched: Outcome, fresh: Sequence[Outcome]) -> Row:
    """A plan's line.

    Args:
        name: Its name in the table.
        searched: Its outcome with the search's seed.
        fresh: Its outcomes with the fresh seeds.
    """
    metrics = _mean_metrics([outcome.metrics for outcome in fresh])
    test = Spread.of([outcome.test for outcome in fresh])
    return Row(name, metrics, searched.val, test, searched.parameters)


def command_line(script: str, arguments: Sequence[str]) -> str:
    """The command that runs a script with these arguments, quoted for a shell."""
    return shlex.join(["libmtl-recon", "run", script, *arguments])


def _mean_metrics(all_metrics: Sequence[Metrics]) -> Metrics:
    return {
        task: {name: fmean(metrics[task][name] for metrics in all_metrics) for name in own}
        for task, own in all_metrics[0].items()
    }
