"""``libmtl-recon search``: search for S, K, α, the weighting and values of flags with Optuna."""

from __future__ import annotations

import argparse
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from libmtl_recon.cli.command import add_command
from libmtl_recon.cli.stopping import told_to_stop
from libmtl_recon.errors import UsageError, naming
from libmtl_recon.output import INTERRUPTED, warn

VARIABLE = "LIBMTL_RECON_STORAGE"

_DESCRIPTION = """\
Search for the weighting, the exponent alpha of GradOPS, the number K of layers that Recon splits
and how they are chosen, and the values of any flag with which a LibMTL script performs best. The
search trains each task alone and EW (equal weights) with plain parameter sharing as baselines,
scores the network's layers once, and then lets Optuna choose what to train; each run is a separate
process. Configurations are compared on validation data by Delta_m, the average relative
improvement over single-task training, or by several objectives; the best is compared with EW on
the test data, with new seeds.
"""
_EPILOG = """\
examples:
  libmtl-recon search                              included data, some minutes on a CPU
  libmtl-recon search check study.yaml             report all mistakes; train nothing
  libmtl-recon search study.yaml --out runs/nyu
  libmtl-recon search --trials 60                  resume the first search, up to 60 trials
  libmtl-recon search study.yaml --report          write the report of the results so far
  libmtl-recon search study.yaml --storage postgresql+psycopg://me@host/studies
                                                   started N times: N workers of one search
  libmtl-recon search schema > schema.json         print the JSON Schema of a configuration

After Ctrl-C, the same command resumes where the search stopped. Its folder contains the report,
the pictures, the log of every run, and Optuna's study (study.db, readable by optuna-dashboard). To
use a file named check or schema, write ./check.

a configuration:
  script: main.py                 # relative to this file, or a built-in problem
  arguments: [train]              # the script's positional arguments, before the flags
  flags:                          # of LibMTL and of the script: a value, a list or a range
    {epochs: 40, bs: [64, 128], lr: {low: 1.0e-4, high: 0.1, log: true}}
  space:
    weighting: [EW, GradOPS, RotoGrad]
    flags: {RotoGrad: {rotograd_lr: {low: 1.0e-4, high: 0.01, log: true}}}
    alpha: {low: -3, high: 2, step: 0.5}  # or a list
    k: {low: 0, high: 20}         # 0: no layer is split; may be left out
    s: [-0.2, -0.1, -0.05, 0]
    select: [conflict, first]     # as for --recon_select
  objectives: [delta_m, parameters]  # worst_task, memory, step_time, TASK.METRIC
  metrics: {weights: {depth: 0.5}, leave_out: [segmentation.pixAcc]}
  constraints: {parameters: {at_most: 1.5}, each_task: {not_below: 0.0}}
  pick: {best: delta_m, within: 0.5}  # the smallest network near the best
  sampler: {name: TPESampler, args: {n_startup_trials: 12}}  # of Optuna, or package.module:Class
  pruner: {name: MedianPruner, args: {n_warmup_steps: 5}}
  score: {weighting: EW, steps: 300, reuse: false}
  tune_baselines: true            # the same flags, with the same budget
  trials: 30
  timeout: {run: 3600, study: 86400}  # seconds

docs/search.md describes all keys. Mistakes in the file are reported immediately; values that the
script does not accept (weightings, flags, K) before anything is trained.
"""
_CHECK = """\
Report all mistakes in a configuration, and train nothing: first its keys and values, then the
script, which is started with the configuration's arguments up to the point where it builds its
network. The exit status is 0 if there is no mistake, and 2 if the configuration has one.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "search",
        "search for S, K, alpha, the weighting and flags with Optuna",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.usage = (
        "%(prog)s [-h] [CONFIG] [--out DIR] [--trials N] [--workers N] [--seed N]\n"
        "                           [--storage URL] [--report]\n"
        "       %(prog)s check [CONFIG] [--trials N] [--workers N] [--seed N] [--storage URL]\n"
        "       %(prog)s schema"
    )
    _add_config(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the folder of the search (default: runs/NAME, with the study's name)",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="write the report of the results so far, and train nothing; also possible while "
        "the search runs",
    )
    parser.set_defaults(handle=_handle)
    more = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    check = parser.add_other("check", description=_CHECK, **more)
    _add_config(check)
    check.set_defaults(handle=_check)
    schema = parser.add_other(
        "schema", description="Print print the JSON Schema of a configuration, for editors.", **more
    )
    schema.set_defaults(handle=_schema)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        default="multidigits",
        help="a YAML file, or the name of a configuration that comes with the package (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--trials", type=int, metavar="N", help="number of trials, in all sessions together"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of runs at a time")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="seed of the trials and of the sampler"
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"the database that all workers of the search share (default: {VARIABLE}, which is "
        "not visible in lists of processes, or else a file in the folder of the search)",
    )


def _handle(options: argparse.Namespace) -> int:
    from libmtl_recon.search import run_search, write_report

    if options.out == "":
        raise UsageError(
            "--out",
            "must be the name of a folder",
            options.out,
            "It is empty; without --out, the folder is runs/ followed by the study's name.",
        )
    storage = _storage(options)
    config = _config(options)
    out = None if options.out is None else Path(options.out)
    if options.report:
        with _named(options):
            for file in write_report(config, out, storage=storage):
                print(f"Report: {file}")
        return 0
    if storage is None and out is None:
        out = Path("runs") / config.name
    try:
        with _named(options), told_to_stop(options.own_process) as signals:
            report = run_search(config, out, lambda: bool(signals), storage=storage)
    except KeyboardInterrupt:
        where = "" if storage else f", in {out}"
        warn(f"libmtl-recon: interrupted; the same command resumes where it stopped{where}")
        return INTERRUPTED
    report.print()
    if out is not None:
        print(f"Report: {out / 'report.html'}")
    return INTERRUPTED if signals else 0


def _check(options: argparse.Namespace) -> int:
    from libmtl_recon.search import check_search

    try:
        storage, config = _storage(options), _config(options)
        with _named(options), told_to_stop(options.own_process) as signals:
            lines = check_search(config, storage, lambda: bool(signals))
    except UsageError as error:
        # All of them, whatever their number.
        warn(f"libmtl-recon: error: {getattr(error, 'in_full', error)}")
        return error.exit_status
    print(f"{options.config}: {lines[0]}", *lines[1:], sep="\n")
    return 0


def _schema(options: argparse.Namespace) -> int:
    from libmtl_recon.search import shipped_schema

    print(shipped_schema().read_text(encoding="utf-8"), end="")
    return 0


def _config(options: argparse.Namespace) -> Any:
    from libmtl_recon.search import load_config

    given = {name: getattr(options, name) for name in ("trials", "workers", "seed")}
    return load_config(
        options.config, {name: value for name, value in given.items() if value is not None}
    )


def _named(options: argparse.Namespace) -> AbstractContextManager[None]:
    """Make errors name the flag or variable with which the user gave the database's URL."""
    return naming(storage="--storage" if options.storage is not None else VARIABLE)


def _storage(options: argparse.Namespace) -> str | None:
    """Return the URL of the study's database, if it has its own."""
    name, given = "--storage", options.storage
    if given is None:
        name, given = VARIABLE, os.environ.get(VARIABLE)
    if given is not None and not given.strip():
        raise UsageError(
            name,
            "must be the address of a database",
            given,
            "It is empty: write postgresql+psycopg://USER@HOST/DATABASE, or leave it out to "
            "keep the study in a file in the folder of the search.",
        )
    address: str | None = given
    return address
