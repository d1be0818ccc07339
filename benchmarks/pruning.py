"""A regret study of which trainings of a search can be ended early without losing the best.

    python benchmarks/pruning.py --out runs/pruning

trains each plan of a small grid with several seeds, once, one run at a time, with the runner of
the search; then replays searches over these learning curves, with several of Optuna's pruners and
without one, and compares the plans that they choose. It prints the tables of
docs/results/pruning.md and draws pruning.png. It continues where it was stopped; --minutes limits
the time of training, after which all complete seeds are used.

multi_fashion_mnist uses real data: from the folder in LIBMTL_RECON_DATA, otherwise downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pruning_replay
from filelock import FileLock, Timeout
from pruning_measures import mean, measure
from pruning_replay import RECIPES, SAMPLERS, Training, replay
from pruning_report import Found, agreement_table, draw, summary_table, tables
from pruning_table import PROBLEMS, Collection, Curve, Plan, collect

from libmtl_recon import ReconError, UsageError
from libmtl_recon.files import write_atomically
from libmtl_recon.problems.argument_types import positive, whole

INTERRUPTED = 130


def replays(
    collection: Collection, seed: int, curves: dict[Plan, Curve], searches: int, trials: int
) -> dict[str, dict[str, list[list[Training]]]]:
    """Return ``found[sampler][pruner][search]`` for one training seed; it is kept in the folder."""
    plans = list(curves)
    told = [[p.name, *c.val] for p, c in curves.items()]
    key = [told, [recipe.title for recipe in RECIPES], searches, trials]
    code = Path(pruning_replay.__file__).read_bytes()
    digest = hashlib.sha256(json.dumps(key).encode() + code).hexdigest()
    file = collection.folder / f"replays-seed{seed}.json"
    kept = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if kept.get("digest") != digest:
        print(f"{collection.problem.name}: searches with seed {seed}", file=sys.stderr)
        made = {
            sampler: {
                recipe.title: [
                    [
                        [plans.index(one.plan), one.epochs, one.ended_early]
                        for one in replay(
                            collection.problem, curves, recipe, sampler, number, trials
                        )
                    ]
                    for number in range(searches)
                ]
                for recipe in RECIPES
            }
            for sampler in SAMPLERS
        }
        kept = {"digest": digest, "replays": made}
        write_atomically(file, json.dumps(kept))
    return {
        sampler: {
            title: [[Training(plans[i], n, early) for i, n, early in one] for one in many]
            for title, many in by_title.items()
        }
        for sampler, by_title in kept["replays"].items()
    }


def judge(collection: Collection, searches: int, trials: int) -> list[Found]:
    """Return the results of a problem's replays, per sampler; empty without a complete seed."""
    table = collection.read()
    if not table:
        print(f"{collection.problem.name}: no seed is complete", file=sys.stderr)
        return []
    made = {seed: replays(collection, seed, c, searches, trials) for seed, c in table.items()}
    budget = trials * collection.problem.epochs
    return [
        Found(
            collection.problem,
            table,
            sampler,
            trials,
            {
                recipe.title: {
                    seed: mean(
                        [
                            measure(table, seed, one, trials, budget)
                            for one in made[seed][sampler][recipe.title]
                        ]
                    )
                    for seed in table
                }
                for recipe in RECIPES
            },
        )
        for sampler in SAMPLERS
    ]


def study(options: argparse.Namespace) -> None:
    """Run the study with its folder locked."""
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(options.out / ".lock", timeout=0):
            _study(options)
    except Timeout as error:
        raise UsageError(
            "--out",
            "must be a folder in which no other study is at work",
            str(options.out),
            "Wait for it, or name another folder.",
        ) from error


def _study(options: argparse.Namespace) -> None:
    """Run the missing trainings, replay, print and draw."""
    # The study has its own cache, separate from that of the user.
    os.environ["LIBMTL_RECON_CACHE"] = str(options.out.absolute() / "cache")
    problems = [PROBLEMS[name] for name in dict.fromkeys(options.problem)]
    collections = [Collection(problem, options.out, options.seeds) for problem in problems]
    until = time.monotonic() + 60 * options.minutes
    if options.minutes:
        collect(collections, until, lambda text: print(text, file=sys.stderr))
    found = [
        one
        for collection in collections
        for one in judge(collection, options.searches, options.trials or collection.problem.trials)
    ]
    if not found:
        raise ReconError("No problem has a whole seed. Give more --minutes.")
    texts = [agreement_table(found), *map(tables, found)]
    if len({one.problem.name for one in found}) > 1:
        texts += [summary_table(found, sampler) for sampler in SAMPLERS]
    text = "\n\n".join(texts)
    print(text)
    (options.out / "report.md").write_text(text + "\n", "utf-8")
    figures = {
        f"{one.problem.name}, {one.sampler}": {
            pruner: {seed: astuple(measures) for seed, measures in by_seed.items()}
            for pruner, by_seed in one.by_seed.items()
        }
        for one in found
    }
    write_atomically(options.out / "figures.json", json.dumps(figures, indent=1))
    draw(found, "TPE", options.out / "pruning.png")


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/pruning"), help="the folder of all files"
    )
    parser.add_argument(
        "--problem",
        nargs="+",
        choices=PROBLEMS,
        default=list(PROBLEMS),
        help="which are trained and replayed (default: all)",
    )
    parser.add_argument(
        "--seeds",
        type=whole(2),
        help="training seeds of each problem (default: "
        + ", ".join(f"{p.seeds} of {p.name}" for p in PROBLEMS.values())
        + ")",
    )
    parser.add_argument(
        "--minutes",
        type=lambda text: 0.0 if text == "0" else positive(text),
        default=math.inf,
        help="begin no further training after so many; 0 only replays what is there (default: "
        "train all)",
    )
    parser.add_argument(
        "--searches",
        type=whole(2),
        default=20,
        help="replayed for each training seed, sampler and pruner (default: %(default)s)",
    )
    parser.add_argument(
        "--trials",
        type=whole(5),
        help="of each search (default: "
        + ", ".join(f"{p.trials} of {p.name}" for p in PROBLEMS.values())
        + ")",
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
        print(f"pruning: error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
