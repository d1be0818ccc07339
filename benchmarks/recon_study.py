"""What the Recon paper claims, tried on real Multi-Fashion+MNIST, in one command.

    python benchmarks/recon_study.py --output runs/recon

Scores a narrow ResNet18 with several weightings, seeds and data sets, trains it split in several
ways with several weightings and seeds, while the conflicts in what stays shared are counted, and
writes tables (report.md) and pictures. What is finished stays finished: after Ctrl-C the same
command goes on. The parts (--parts) are:

    rankings   how alike the rankings of layers are
    methods    what splitting does to conflicts and to the result, for each weighting and choice
    dose       the same for some K and S
    theorem    Theorem 4.1: one step of the split network against one of the plain one
"""

from __future__ import annotations

import libmtl_recon  # first, so that LibMTL loads on today's torch

# isort: split
import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from LibMTL.utils import set_random_seed
from recon_study_picture import draw
from recon_study_report import write_report
from recon_study_results import SHOWN, K, Results, S
from recon_study_theorem import one_step
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from libmtl_recon import (
    ConflictProfile,
    Measurement,
    Observer,
    ReconError,
    ScoringObserver,
    SingleTask,
    StopRun,
    UsageError,
)
from libmtl_recon.conflict.comparing import norms_first
from libmtl_recon.conflict.schedule import Schedule
from libmtl_recon.plugin.observing import observe
from libmtl_recon.problems import multi_fashion_mnist as problem
from libmtl_recon.problems.argument_types import whole

WEIGHTINGS = ("EW", "CAGrad", "PCGrad", "GradDrop", "MGDA", "GradOPS")
PARTS = ("rankings", "methods", "dose", "theorem")
LONGER, EVERY = 8, 5
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        select: How layers are chosen, or `none` for hard parameter sharing.
        task: The only task trained; None for both.
        steps: End after so many scored steps; None trains all epochs.
    """

    weighting: str = "EW"
    select: str = "none"
    k: int = K
    s: float = S
    seed: int = 0
    pair: str = "digit+article"
    task: str | None = None
    steps: int | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        what = f"{self.select}-k{self.k}-s{self.s:g}" if self.select != "none" else "none"
        more = [self.task or "", "" if self.steps is None else f"{self.steps}steps"]
        return "_".join(filter(None, [self.pair, self.weighting, what, *more, f"seed{self.seed}"]))


def scoring_jobs(options: argparse.Namespace) -> list[Job]:
    """The runs that rank the layers.

    The first is where the trainings take their layers from; the last, a longer one, is there to
    compare its halves.
    """
    jobs = [Job(steps=options.steps)]
    jobs += [Job(weighting, steps=options.steps) for weighting in WEIGHTINGS[1:]]
    jobs += [Job(seed=seed, steps=options.steps) for seed in (1, 2)]
    pairs = [pair for pair in problem.PAIRS if pair != Job.pair]
    jobs += [Job(pair=pair, steps=options.steps) for pair in pairs]
    return [*jobs, Job(steps=LONGER * options.steps)]


def training_jobs(part: str, seeds: int) -> list[Job]:
    """The trainings of a part, seed by seed."""
    jobs: list[Job] = []
    for seed in range(seeds):
        jobs += [Job(seed=seed, task=task) for task in problem.PAIRS[Job.pair]]
        if part == "methods":
            every = itertools.product(SHOWN, WEIGHTINGS)
            jobs += [Job(weighting, select, seed=seed) for select, weighting in every]
        else:
            jobs += [Job("EW", "none", seed=seed)]
            jobs += [Job("EW", "conflict", k, seed=seed) for k in (2, 5, 10, 25, 35)]
            jobs += [Job("EW", "conflict", 10, s, seed) for s in (0.0, -0.05, -0.2)]
    return jobs


class Recorder(Observer):
    """Keeps the accuracies of each pass, and how large the encoder is."""

    def __init__(self) -> None:
        self.passes: list[dict[str, Any]] = []
        self.parameters = 0

    def built(self, trainer: Any) -> None:
        """Count the encoder's parameters."""
        self.parameters = sum(p.numel() for p in trainer.model.encoder.parameters())

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        """Keep each task's accuracy."""
        accuracy = {task: metrics["Acc"] for task, metrics in measurement.metrics.items()}
        self.passes.append({"mode": measurement.mode, "accuracy": accuracy})


def base_params(options: argparse.Namespace) -> argparse.Namespace:
    """The problem's arguments with the study's settings."""
    flags = f"--optim sgd --lr {options.lr} --weight_decay 0"
    flags += f" --width {options.width} --bs {options.bs}"
    flags += f" --epochs {options.epochs} --train_size {options.train_size}"
    # The paper decays at epochs 60 and 90 of 120; LibMTL's schedule has equal steps, so once here.
    flags += f" --scheduler step --step_size {max(1, round(0.6 * options.epochs))} --gamma 0.1"
    flags += " --val_size 2000 --test_size 6000"
    command, sys.argv = sys.argv, ["multi_fashion_mnist", *flags.split()]
    try:
        return problem.parse_args()
    finally:
        sys.argv = command


@functools.lru_cache(maxsize=4)
def _loaders(pair: str, long: bool, settings: str) -> Any:
    params = argparse.Namespace(**json.loads(settings))
    params.pair = pair
    if long:
        params.train_size = 120_000
    return problem.make_loaders(params)


def train(job: Job, settings: str, output: Path) -> None:
    """One training, whose result and log go to files."""
    torch.set_num_threads(1)
    params = argparse.Namespace(**json.loads(settings))
    loaders = _loaders(job.pair, job.steps is not None, settings)
    params.weighting, params.seed, params.pair = job.weighting, job.seed, job.pair
    params.rep_grad = job.weighting == "GradDrop"  # which LibMTL defines on representations only
    if job.select != "none":
        params.arch, params.recon_k, params.recon_s = "Recon", job.k, job.s
        params.recon_layers = str(output / "profile.json")
        if job.select == "norms_first":
            params.recon_layers = str(output / "norms_first.json")
        else:
            params.recon_select, params.recon_select_seed = job.select, job.seed
    recorder = Recorder()
    # A training to its end is only watched, which a part of its steps does.
    schedule = Schedule(every=EVERY) if job.steps is None else Schedule(job.steps)
    scoring = ScoringObserver(schedule) if job.task is None else None
    observers = [recorder, *([scoring] if scoring else [SingleTask(str(job.task))])]
    set_random_seed(job.seed)
    begun = time.process_time()
    with (
        (output / "runs" / f"{job.name}.log").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        observe(*observers),
        contextlib.suppress(StopRun),
    ):
        problem.train(params, loaders)
    profile = scoring.profile() if scoring else None
    record = {
        **asdict(job),
        "seconds": round(time.process_time() - begun, 1),
        "parameters": recorder.parameters,
        "passes": recorder.passes,
        "profile": None if profile is None else json.loads(profile.to_json()),
    }
    write(output / "runs" / f"{job.name}.json", record)


def write(file: Path, content: Any) -> None:
    """Whole or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(content), "utf-8")
    part.replace(file)


def run(jobs: list[Job], settings: str, options: argparse.Namespace) -> None:
    """Train what is missing."""
    missing = [j for j in jobs if not (options.output / "runs" / f"{j.name}.json").is_file()]
    if not missing:
        return
    spawn = multiprocessing.get_context("spawn")
    with _bar(len(missing)) as advance:
        pool = ProcessPoolExecutor(options.workers, spawn)
        try:
            futures = [pool.submit(train, job, settings, options.output) for job in missing]
            for future in as_completed(futures):
                future.result()
                advance()
        finally:
            # After Ctrl-C those that run are left to end; the others are not begun.
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Any]:
    columns = TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=total)
        yield lambda: progress.advance(bar)


def prepare(options: argparse.Namespace) -> str:
    """The settings of all trainings; refuses to mix others into the folder."""
    (options.output / "runs").mkdir(parents=True, exist_ok=True)
    settings = json.dumps(vars(base_params(options)), sort_keys=True)
    file = options.output / "settings.json"
    if file.is_file() and file.read_text("utf-8") != settings:
        raise UsageError(
            "--output",
            "must be a folder of the same settings",
            str(options.output),
            "Name another folder, or give the same settings again.",
        )
    file.write_text(settings, "utf-8")
    return settings


def study(options: argparse.Namespace) -> None:
    """All the parts that are asked for, and the report of all that is there."""
    settings = prepare(options)
    ranked = scoring_jobs(options)
    run(ranked if "rankings" in options.parts else ranked[:1], settings, options)
    first = json.loads((options.output / "runs" / f"{ranked[0].name}.json").read_text("utf-8"))
    profile = ConflictProfile.from_json(json.dumps(first["profile"]))
    (options.output / "profile.json").write_text(profile.to_json(), "utf-8")
    trivial = norms_first(profile.architecture)
    scores = {name: len(trivial) - rank for rank, name in enumerate(trivial)}
    write(options.output / "norms_first.json", scores)
    for part in ("methods", "dose"):
        if part in options.parts:
            run(training_jobs(part, options.seeds), settings, options)
    theorem = options.output / "theorem.json"
    if "theorem" in options.parts and not theorem.is_file():
        params = argparse.Namespace(**json.loads(settings))
        loader = _loaders(Job.pair, False, settings)["train"]
        write(theorem, one_step(params.width, loader, profile.layers(S, K)))
    print(write_report(options.output, json.loads(settings)))
    results = Results.read(options.output)
    if results.methods:
        draw(results, options.output)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/recon"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=whole(2), default=3)
    parser.add_argument("--workers", type=whole(1), default=2)
    parser.add_argument("--width", type=whole(1), default=8, help="the paper has 64")
    parser.add_argument("--bs", type=whole(2), default=128, help="the paper has 256")
    parser.add_argument("--lr", type=float, default=0.03, help="at first; the paper has 0.1")
    parser.add_argument("--epochs", type=whole(1), default=5, help="the paper has 120")
    parser.add_argument("--train_size", type=whole(2), default=16_000, help="the paper has 120,000")
    parser.add_argument("--steps", type=whole(1), default=600, help="to score for a ranking")
    return parser.parse_args()


def main() -> int:
    """Run the study; returns the exit status."""
    try:
        study(parse_args())
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except ReconError as error:
        print(f"recon_study: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    libmtl_recon.activate()
    raise SystemExit(main())
