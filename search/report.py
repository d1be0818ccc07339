"""The report of a search: a table, the command for the best trial, pictures, files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from libmtl_recon_search.judge import Baseline, Judge, Outcome, said
from libmtl_recon_search.layout import (
    fitting_markdown,
    fitting_table,
    make_table,
    markdown,
)
from libmtl_recon_search.objective import Metrics
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.ranking import front_objectives, front_of, values_of
from libmtl_recon_search.study import Study
from libmtl_recon_search.trials import TrialLine, best_and_failed
from rich.text import Text

from libmtl_recon.consoles import make_console
from libmtl_recon.files import write_atomically
from libmtl_recon.texts import printable

_NUMBERS = (
    "Numbers are those in study.db. A trial that chose what was already trained is not listed: it "
    "got the existing result, and is not counted."
)


_FRONT = "The Pareto front of the trials, on the data on which they were compared:"
_FRONT_HEADINGS = ["trial", "plan", "result"]


@dataclass(frozen=True)
class Spread:
    """A quantity over several seeds.

    Attributes:
        mean: Its mean.
        sd: Its standard deviation; None for a single value.
        values: One value per seed.
    """

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of some values."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, tuple(values))

    def __str__(self) -> str:
        return f"{self.mean:+.2f}" + ("" if self.sd is None else f" ± {self.sd:.2f}")


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: The name of the method.
        metrics: The metrics on the test data, means over the new seeds.
        val: Δm on the data on which configurations were compared, over the new seeds; None for the
            single-task networks, which Δm is relative to.
        test: Δm on the test data, over the new seeds.
        parameters: The number of parameters of the network, or of all networks.
    """

    name: str
    metrics: Metrics
    val: Spread | None
    test: Spread | None
    parameters: int


@dataclass(frozen=True)
class Finalist:
    """A trial that was trained again before one was picked.

    Attributes:
        plan: The plan.
        val: Its Δm on the data on which configurations are compared, per seed.
    """

    plan: Plan
    val: Spread


@dataclass(frozen=True)
class FrontRow:
    """A trial of the Pareto front.

    Attributes:
        number: The trial's number in Optuna.
        plan: The plan in words.
        values: The objectives, by name.
    """

    number: int
    plan: str
    values: Mapping[str, float]

    @property
    def cells(self) -> list[str]:
        """Return the row of a table: trial, plan, values."""
        return [str(self.number), self.plan, ", ".join(said(*one) for one in self.values.items())]


@dataclass(frozen=True)
class Report:
    """The final report of a search.

    Attributes:
        rows: The rows of single-task networks, EW with plain sharing, and the best plan.
        best: The best plan.
        finalists: The finalists, best first.
        gain: Δm of the best plan minus that of EW on the test data, per seed.
        seeds: The seeds of the comparison.
        on: The data on which configurations were compared.
        reached: The result of the best plan with the search's seed, and the number of epochs.
        command: The command that reproduces this result.
        pictures: The pictures that were drawn.
        trials: The number of trials, without repeats.
        failed: The number of failed trials.
        lines: The trials, with repeats merged.
        chosen_by: The objective by which the finalists were compared.
        front: The Pareto front of the trials.
        notes: Notes on the measurements for readers.
    """

    rows: tuple[Row, ...]
    best: Plan
    finalists: tuple[Finalist, ...]
    gain: Spread
    seeds: tuple[int, ...]
    on: str
    reached: Outcome
    command: str
    pictures: tuple[Path, ...]
    trials: int = 0
    failed: int = 0
    lines: tuple[TrialLine, ...] = ()
    chosen_by: str = "delta_m"
    front: tuple[FrontRow, ...] = ()
    notes: tuple[str, ...] = ()

    def print(self) -> None:
        """Print the table and the next steps."""
        console = make_console(fitting=True)

        def say(text: str, soft_wrap: bool | None = None) -> None:
            console.print(Text(printable(text, keep="\n")), soft_wrap=soft_wrap)

        say(f"\n{self.caption}\n")
        console.print(fitting_table(self.headings, self.cells, console))
        say(f"\n{self.verdict}\n")
        shown = best_and_failed(self.lines)
        if shown:
            say(f"Its best trials{self._and_failed}; report.md lists all of them:\n")
            rows = [line.cells for line in shown]
            console.print(make_table(self.trial_headings, rows, console, left=(1, 3)))
            say("")
        if self.front:
            say(f"{_FRONT}\n")
            rows = [row.cells for row in self.front]
            console.print(make_table(_FRONT_HEADINGS, rows, console, left=(1, 2)))
            say("")
        for note in self.notes:
            say(f"Note: {note}\n")
        # Commands and paths, which are copied from a terminal, are not wrapped.
        say(f"{self.how}\n\n  {self.command}\n", soft_wrap=True)
        for picture in self.pictures:
            say(f"Picture: {picture}", soft_wrap=True)

    @property
    def caption(self) -> str:
        """Return the caption of the table."""
        seeds = ", ".join(map(str, self.seeds))
        text = f"Trained again with seeds {seeds}. Metrics on test data; Δm as mean ± sd."
        return f"{text} {self.failed} of {self.trials} trials failed." if self.failed else text

    @property
    def headings(self) -> list[str]:
        """Return the headings of the table's columns."""
        metrics = [f"{task} {name}" for task, own in self.rows[0].metrics.items() for name in own]
        same = [] if self.on == "test" else [f"Δm {self.on} %"]
        return ["", *metrics, *same, "Δm test %", "parameters"]

    @property
    def cells(self) -> list[list[str]]:
        """Return the table's rows."""
        return [
            [
                row.name,
                *(f"{value:.4f}" for own in row.metrics.values() for value in own.values()),
                *([] if self.on == "test" else [_cell(row.val)]),
                _cell(row.test),
                f"{row.parameters:,}",
            ]
            for row in self.rows
        ]

    @property
    def verdict(self) -> str:
        """Return a sentence on whether the best plan beats EW on data not used by the search."""
        better = sum(1 for value in self.gain.values if value > 0)
        held = "On held-out test data" if self.on != "test" else ("On the test data, on which the ")
        held += "" if self.on != "test" else "best was also chosen,"
        if not self.best.layers and self.best.weighting == "EW":
            return "No trial was better than EW with plain sharing."
        verb = "is above" if self.gain.mean > 0 else "is NOT above"
        return (
            f"{held} the best, {self.best.title}, {verb} EW with plain sharing: Δm differs by "
            f"{self.gain} points, and is higher in {better} of {len(self.seeds)} seeds."
        )

    @property
    def how(self) -> str:
        """Return a sentence about what the command reproduces."""
        epoch, gain = self.reached.epoch + 1, self.reached.val
        return f"Reproduce the best trial (Δm {gain:+.2f} % on {self.on} data after epoch {epoch}):"

    @property
    def _chosen_by(self) -> str:
        return "Δm %" if self.chosen_by == "delta_m" else self.chosen_by

    @property
    def trial_headings(self) -> list[str]:
        """Return the headings of the table of trials."""
        return ["trial", "plan", f"Δm {self.on} %", "ended"]

    @property
    def _and_failed(self) -> str:
        return " and those that failed" if self.failed else ""

    def save(self, folder: Path) -> None:
        """Write report.md and report.json."""
        finalists = [[one.plan.title, str(one.val)] for one in self.finalists]
        trials = [line.cells for line in self.lines]
        lines = [
            *("# Search report", "", self.caption, ""),
            *fitting_markdown(self.headings, self.cells),
            *("", self.verdict, "", self.how, "", f"    {self.command}", ""),
            f"Its split layers, worst first: {', '.join(self.best.layers) or 'none'}",
            *("", f"It was chosen by its mean {self._chosen_by} on {self.on} data among", ""),
            *markdown(["", self._chosen_by], finalists),
            *("", "## Pareto front", "", _FRONT, ""),
            *markdown(_FRONT_HEADINGS, [row.cells for row in self.front], left=(1, 2)),
            *(line for note in self.notes for line in ("", f"Note: {note}")),
            *("", "## Trials", "", _NUMBERS, ""),
            *markdown(self.trial_headings, trials, left=(1, 3)),
            "",
            *(f"![{picture.stem}]({picture.name})\n" for picture in self.pictures),
        ]
        write_atomically(folder / "report.md", "\n".join(lines))
        data: dict[str, Any] = asdict(self)
        data["pictures"] = [picture.name for picture in self.pictures]
        write_atomically(
            folder / "report.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        )


def front_rows(study: Study, judge: Judge) -> tuple[FrontRow, ...]:
    """Return the Pareto front of a study's trials, best first by the first objective."""
    names = [name for name, _ in front_objectives(judge)]
    return tuple(
        FrontRow(
            trial.number,
            study.plan(trial).title,
            {name: values_of(trial, judge)[name] for name in names},
        )
        for trial in front_of(study, judge)
    )


def single_task_row(baselines: Sequence[Baseline]) -> Row:
    """Return the row of the single-task networks, with which the others are compared."""
    metrics = _mean_metrics([baseline.test for baseline in baselines])
    return Row("single-task", metrics, None, None, baselines[0].parameters)


def plan_row(name: str, outcomes: Sequence[Outcome]) -> Row:
    """Return the row of a plan.

    Args:
        name: Its name in the table.
        outcomes: Its outcomes, one per seed.
    """
    metrics = _mean_metrics([outcome.metrics for outcome in outcomes])
    val, test = (Spread.of([getattr(o, on) for o in outcomes]) for on in ("val", "test"))
    return Row(name, metrics, val, test, outcomes[0].parameters)


def command_line(script: str, arguments: Sequence[str], threads: int, ranks: int = 1) -> str:
    """Return the command that repeats a run, quoted for a shell.

    Args:
        script: A path or the name of a built-in problem.
        arguments: The script's command line.
        threads: The number of PyTorch's threads in the run, which changes the rounding of sums.
        ranks: The number of processes of the training, which changes the rounding as well.
    """
    program = ["libmtl-recon"]
    if ranks > 1:
        program = ["torchrun", "--standalone", f"--nproc-per-node={ranks}", "-m", "libmtl_recon"]
    return f"OMP_NUM_THREADS={threads} {shlex.join([*program, 'run', script, *arguments])}"


def _cell(spread: Spread | None) -> str:
    return "–" if spread is None else str(spread)


def _mean_metrics(all_metrics: Sequence[Metrics]) -> Metrics:
    return {
        task: {name: fmean(metrics[task][name] for metrics in all_metrics) for name in own}
        for task, own in all_metrics[0].items()
    }
