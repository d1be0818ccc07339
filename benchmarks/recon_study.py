"""The claims of the Recon paper, tested on real Multi-Fashion+MNIST, in one command.

    python benchmarks/recon_study.py --output runs/recon

Scores a narrow ResNet18 with several weightings, seeds and data sets, trains it split in several
ways with several weightings and seeds, while conflicts in the shared layers are counted, and writes
tables (report.md) and pictures. Finished trainings are kept: after Ctrl-C the same command
continues. The parts (--parts) are:

    rankings   the similarity of the rankings of layers
    methods    the effect of splitting on conflicts and results, for each weighting and choice
    dose       the same for some K and S
    theorem    Theorem 4.1: one step of the split network compared with one of the plain one
"""

from __future__ import annotations

import libmtl_recon  # first, so that LibMTL can be imported with current torch versions

# isort: split
import argparse
import contextlib
import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from recon_study_jobs import Job, scoring_jobs, training_jobs
from recon_study_picture import draw
from recon_study_report import write_report
from recon_study_results import K, Results, S, read_trainings
from recon_study_theorem import one_step
from recon_study_training import base_params, load, train
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from libmtl_recon import ConflictProfile, ReconError, UsageError
from libmtl_recon.conflicts.baselines import norms_first
from libmtl_recon.files import write_atomically
from libmtl_recon.problems.argument_types import whole

PARTS = ("rankings", "methods", "dose", "theorem")
INTERRUPTED = 130


def run(jobs: list[Job], settings: str, options: argparse.Namespace) -> None:
    """Run the missing trainings."""
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
            # After Ctrl-C running trainings are completed; the others are not started.
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Any]:
    columns = TextColumn("trainings"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=total)
        yield lambda: progress.advance(bar)


def prepare(options: argparse.Namespace) -> str:
    """Return the settings of all trainings; refuse a folder with other settings."""
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
    """Run the requested parts, and write the report of all finished trainings."""
    settings = prepare(options)
    ranked = scoring_jobs(options)
    run(ranked if "rankings" in options.parts else ranked[:1], settings, options)
    first = json.loads((options.output / "runs" / f"{ranked[0].name}.json").read_text("utf-8"))
    profile = ConflictProfile.from_json(json.dumps(first["profile"]))
    (options.output / "profile.json").write_text(profile.to_json(), "utf-8")
    trivial = norms_first(profile.architecture)
    scores = {name: len(trivial) - rank for rank, name in enumerate(trivial)}
    write_atomically(options.output / "norms_first.json", json.dumps(scores))
    for part in ("methods", "dose"):
        if part in options.parts:
            run(training_jobs(part, options.seeds), settings, options)
    theorem = options.output / "theorem.json"
    if "theorem" in options.parts and not theorem.is_file():
        params = argparse.Namespace(**json.loads(settings))
        loader = load(Job.pair, False, settings)["train"]
        found = one_step(params.width, loader, profile.layers(S, K))
        write_atomically(theorem, json.dumps(found))
    trainings = read_trainings(options.output)
    print(write_report(options.output, json.loads(settings), trainings))
    results = Results(trainings)
    if results.methods:
        draw(results, options.output)


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/recon"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=whole(2), default=3)
    parser.add_argument("--workers", type=whole(1), default=2)
    parser.add_argument(
        "--width", type=whole(1), default=8, help="width of the network; 64 in the paper"
    )
    parser.add_argument("--bs", type=whole(2), default=128, help="batch size; 256 in the paper")
    parser.add_argument(
        "--lr", type=float, default=0.03, help="initial learning rate; 0.1 in the paper"
    )
    parser.add_argument(
        "--epochs", type=whole(1), default=4, help="number of epochs; 120 in the paper"
    )
    parser.add_argument(
        "--train_size",
        type=whole(2),
        default=16_000,
        help="number of training images; 120,000 in the paper",
    )
    parser.add_argument(
        "--steps", type=whole(1), default=600, help="number of steps to score for a ranking"
    )
    return parser.parse_args()


def main() -> int:
    """Run the study, and return the exit status."""
    try:
        study(parse_args())
    except KeyboardInterrupt:
        print("interrupted; run the same command to resume", file=sys.stderr)
        return INTERRUPTED
    except ReconError as error:
        print(f"recon_study: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    libmtl_recon.activate()
    raise SystemExit(main())
