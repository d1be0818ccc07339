"""The time of a search outside its trials, and the time that a second worker saves.

    python benchmarks/search_workers.py overhead --trials 200 --workers 1 8
    python benchmarks/search_workers.py workers --rounds 1

``overhead``: a search with many trials of the small script of ``examples/search`` (a run takes
about a second), by W workers that share a database. The columns:

    wall          seconds from the start of the first trial to the end of the last
    in trials     the sum of the seconds of all trained trials
    outside       1 - in trials / (W x wall): the fraction of the workers' time in which they chose,
                  wrote, waited for one another, were still starting, or had no trial left
    joined        the same from the moment when all W workers were training for the first time;
                  this excludes their start, one after the other on a machine with fewer cores

``workers``: the search of the shipped configuration ``multidigits`` by one worker of one thread,
then by two, each search from scratch, in turns. The result is the ratio of the times of a round.
Its lower bound is 0.5; it is above this since one worker waits during baselines and the last
trials.

Every search has its own database (SQLite) and cache, in a folder that is removed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

EXAMPLE = Path(__file__).parent.parent / "examples" / "search" / "main.py"
SHIPPED = Path(__file__).parent.parent / "configs" / "multidigits.yaml"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    overhead = kinds.add_parser("overhead")
    overhead.add_argument("--trials", type=int, default=200)
    overhead.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    workers = kinds.add_parser("workers")
    workers.add_argument("--rounds", type=int, default=1)
    workers.add_argument("--config", type=Path, default=SHIPPED)
    options = parser.parse_args()
    if options.kind == "overhead":
        measure_overhead(options.trials, options.workers)
    else:
        measure_workers(options.config, options.rounds)


def measure_overhead(trials: int, workers: list[int]) -> None:
    """Print the fraction of the workers' time outside trials."""
    print(f"{'workers':>7} {'trials':>6} {'wall':>8} {'in trials':>9} {'outside':>8} {'joined':>7}")
    for count in workers:
        config = {
            "name": "overhead",
            "script": str(EXAMPLE),
            "flags": {"epochs": 1},
            "space": {
                "weighting": ["GradOPS"],
                "alpha": {"low": -3.0, "high": 2.0},
                "k": {"low": 0, "high": 4},
            },
            "score": {"steps": 5},
            "trials": trials,
            "prune": False,
            "workers": 1,
            "finalists": {"count": 1, "seeds": []},
            "confirm": [1],
        }
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "overhead.yaml"
            file.write_text(yaml.safe_dump(config), encoding="utf-8")
            run(file, count, Path(folder))
            found = trials_of(f"sqlite:///{folder}/shared.db", "overhead")
        wall, inside, joined = spent(found, count)
        outside = 1 - inside / (count * wall)
        print(
            f"{count:>7} {len(found):>6} {wall:>7.1f}s {inside:>8.1f}s "
            f"{outside:>7.1%} {joined:>6.1%}",
            flush=True,
        )


def measure_workers(config: Path, rounds: int) -> None:
    """Print the ratio of the times of two workers and one."""
    ratios = []
    shipped = yaml.safe_load(config.read_text(encoding="utf-8"))
    del shipped["objective"]  # it is the default, and PyYAML reads its `on` as a boolean
    shipped |= {"workers": 1, "threads": 1, "name": "workers"}
    for place in range(rounds):
        spent_by = {}
        for count in (1, 2) if place % 2 == 0 else (2, 1):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "workers.yaml"
                file.write_text(yaml.safe_dump(shipped), encoding="utf-8")
                spent_by[count] = run(file, count, Path(folder))
        ratios.append(spent_by[2] / spent_by[1])
        print(
            f"one worker {spent_by[1]:.1f} s, two workers {spent_by[2]:.1f} s: {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median {statistics.median(ratios):.3f} of {rounds} rounds; the limit is 0.5")


def run(file: Path, count: int, folder: Path) -> float:
    """Run a search by several workers that start together, and return its seconds."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "LIBMTL_RECON_CACHE": str(folder / "cache"),
        "LIBMTL_RECON_STORAGE": f"sqlite:///{folder}/shared.db",
    }
    command = [sys.executable, "-m", "libmtl_recon", "search", str(file), "--out"]
    began = time.monotonic()
    started = [
        subprocess.Popen(
            [*command, str(folder / f"out{place}")],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for place in range(count)
    ]
    for process in started:
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(f"A worker ended with {process.returncode}: {said.decode()[-2000:]}")
    return time.monotonic() - began


def trials_of(url: str, name: str) -> list[FrozenTrial]:
    """Return the trained trials of a search."""
    storage = optuna.storages.RDBStorage(url)
    found = optuna.load_study(study_name=name, storage=storage).get_trials()
    storage.engine.dispose()
    return [t for t in found if t.state == TrialState.COMPLETE and "same_as" not in t.user_attrs]


def spent(trials: list[FrozenTrial], workers: int) -> tuple[float, float, float]:
    """Return wall seconds, the sum of seconds in trials, and the fraction outside once joined."""
    spans = [(t.datetime_start, t.datetime_complete) for t in trials]
    known = [(a.timestamp(), b.timestamp()) for a, b in spans if a is not None and b is not None]
    begin, end = min(a for a, _ in known), max(b for _, b in known)
    at_work, joined = 0, begin
    for moment, change in sorted([(a, 1) for a, _ in known] + [(b, -1) for _, b in known]):
        at_work += change
        if at_work == workers:
            joined = moment
            break
    since = sum(b - max(a, joined) for a, b in known if b > joined)
    inside = sum(b - a for a, b in known)
    return end - begin, inside, 1 - since / (workers * (end - joined))


if __name__ == "__main__":
    main()
