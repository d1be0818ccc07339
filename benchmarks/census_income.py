"""The Census-Income study of GradOPS (section 4.1, Table 1 and Figure 7), in one command.

    python benchmarks/census_income.py --output runs/census_income

Trains the problem `census_income` with each method and seed, one after the other, and writes the
table, the picture of the average against alpha, and an answer to each of the paper's claims.
Finished trainings are kept: after Ctrl-C the same command continues. The data are found as by
`libmtl-recon run census_income`.

The hyperparameters of GradNorm and CAGrad are those that the paper found best (1.5 and 0.5, also
LibMTL's defaults). LibMTL's IMTL is the hybrid of its paper, IMTL-L and IMTL-G together; `IMTL-G`
is the same class with IMTL-L's learned loss scales fixed at 1.
"""

from __future__ import annotations

import libmtl_recon  # first, so that LibMTL can be imported with current torch versions

# isort: split
import argparse
import contextlib
import copy
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from census_income_report import Result, write_report
from LibMTL.utils import set_random_seed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from libmtl_recon import Measurement, ReconError, TrainerHook, UsageError
from libmtl_recon.files import write_atomically
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.problems import census_income
from libmtl_recon.problems.argument_types import whole

ALPHAS = (-10.0, -5.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
OTHERS = ("EW", "PCGrad", "CAGrad", "IMTL", "IMTL-G", "MGDA", "GradNorm")
METHODS = (*OTHERS, *(f"GradOPS({alpha:g})" for alpha in ALPHAS))
# The methods of docs/results/census_income.md.
STUDY = tuple(m for m in METHODS if m not in ("IMTL", *(f"GradOPS({a:g})" for a in (-0.5, 0.5, 3))))
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """A training of the study."""

    method: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.method}-seed{self.seed}"

    def params(self, base: argparse.Namespace) -> argparse.Namespace:
        """Return the parameters that `census_income` would read from its command line."""
        params = copy.deepcopy(base)
        params.seed = self.seed
        params.weighting = self.method
        if self.method.startswith("GradOPS("):
            params.weighting = "GradOPS"
            params.gradops_alpha = float(self.method[len("GradOPS(") : -1])
        elif self.method == "IMTL-G":
            params.weighting = "IMTL"
        return params


class Recorder(TrainerHook):
    """Hook that records the AUC of each pass over the data."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.passes: list[dict[str, Any]] = []

    def built(self, trainer: Any) -> None:
        """Fix IMTL-L's loss scales for IMTL-G."""
        if self.job.method == "IMTL-G":
            trainer.model.loss_scale.requires_grad_(False)

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Record each task's AUC."""
        auc = {task: metrics["AUC"] for task, metrics in measurement.metrics.items()}
        self.passes.append({"epoch": measurement.epoch, "mode": measurement.mode, "auc": auc})


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds", type=whole(2), default=3, help="number of trainings of each method"
    )
    parser.add_argument(
        "--epochs", type=whole(1), default=12, help="number of epochs; 200 in the paper"
    )
    parser.add_argument(
        "--lr", type=float, default=1e-3, help="learning rate of Adam; 1e-4 in the paper"
    )
    parser.add_argument("--methods", nargs="+", default=STUDY, choices=METHODS, metavar="METHOD")
    parser.add_argument("--output", type=Path, default=Path("runs/census_income"))
    return parser.parse_args()


def problem_params(options: argparse.Namespace) -> argparse.Namespace:
    """Return the problem's defaults with the study's epochs and learning rate."""
    command, sys.argv = sys.argv, ["census_income"]
    try:
        params = census_income.parse_args()
    finally:
        sys.argv = command
    params.epochs, params.lr = options.epochs, options.lr
    return params


def check_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Check that the folder has no trainings with other settings."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    if file.is_file():
        before = json.loads(file.read_text("utf-8"))
        if before != settings:
            raise UsageError(
                "--output",
                f"must be a folder of the same settings ({json.dumps(settings)})",
                f"{folder}, with {json.dumps(before)}",
                "Name another folder, or give the same settings again.",
            )
    write_atomically(file, json.dumps(settings, indent=1))


def train(job: Job, base: argparse.Namespace, loaders: Any, log: Path) -> dict[str, Any]:
    """Run a training, with its output in a file."""
    set_random_seed(job.seed)
    recorder, begun = Recorder(job), time.process_time()
    with (
        log.open("w", encoding="utf-8") as out,
        contextlib.redirect_stdout(out),
        trainer_hooks(recorder),
    ):
        census_income.train(job.params(base), loaders)
    seconds = time.process_time() - begun
    return {**vars(job), "seconds": round(seconds, 1), "passes": recorder.passes}


def study(options: argparse.Namespace) -> None:
    """Run the missing trainings, then write the report."""
    base = problem_params(options)
    settings = {key: getattr(base, key) for key in ("epochs", "lr", "bs", "width", "dropout")}
    settings |= {"optim": base.optim, "data_seed": base.data_seed, "torch": torch.__version__}
    loaders = census_income.make_loaders(base)
    settings["people"] = {part: len(loader.dataset) for part, loader in loaders.items()}
    check_folder(options.output, settings)
    console = Console(stderr=True, highlight=False)
    # Seed by seed, so that an unfinished study can already compare all methods.
    jobs = [Job(method, seed) for seed in range(options.seeds) for method in options.methods]
    files = {job: options.output / "runs" / f"{job.name}.json" for job in jobs}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("trainings", total=len(jobs))
        for job, file in files.items():
            progress.update(bar, description=job.name)
            if not file.is_file():
                record = train(job, base, loaders, file.with_suffix(".log"))
                write_atomically(file, json.dumps(record, indent=1))
            progress.advance(bar)
    results = [Result.read(json.loads(file.read_text("utf-8"))) for file in files.values()]
    print(write_report(results, settings, options.output))


def main() -> int:
    try:
        study(parse_args())
    except KeyboardInterrupt:
        print("interrupted; run the same command to resume", file=sys.stderr)
        return INTERRUPTED
    except ReconError as error:
        print(f"census_income: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    libmtl_recon.activate()
    raise SystemExit(main())
