"""``libmtl-recon search``: let Optuna find S, K, α and the weighting."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from libmtl_recon.cli.command import add_command
from libmtl_recon.errors import UsageError
from libmtl_recon.output import INTERRUPTED, warn

_DESCRIPTION = """\
Search for the severity S, the number of split layers K, GradOPS's alpha and the weighting with
which a LibMTL script does best. The search trains each task alone and EW with plain sharing as
baselines, scores the network's layers once, and then has Optuna choose what to train; each run is
a process of its own. Configurations are compared on validation data by the average relative
improvement over single-task training; the best is compared with EW on the test data, with fresh
seeds.
"""
_EPILOG = """\
examples:
  libmtl-recon search                              two digits an image; embedded, minutes on a CPU
  libmtl-recon search study.yaml --out runs/nyu
  libmtl-recon search --trials 60                  go on with the search above, up to 60 trials

Ctrl-C loses nothing: the same command goes on where the search stopped. Its folder has the report,
the pictures, every run's log, and Optuna's study (study.db, readable by optuna-dashboard).

a configuration:
  script: main.py                 # relative to this file, or a built-in problem
  arguments: [train]              # the script's positional arguments, before the flags
  flags: {epochs: 40, lr: 0.001}  # LibMTL's and the script's own
  space:
    weighting: [EW, GradOPS]
    alpha: {low: -3, high: 2, step: 0.5}
    s: [-0.2, -0.1, -0.05, 0]
    k: {low: 0, high: 20}         # 0: nothing is split
  score: {weighting: EW, steps: 300}
  trials: 30
  timeout: {run: 3600}            # seconds after which a run counts as failed

docs/search.md has all keys. What is wrong in the file is said at once; what the script does not
accept (weightings, flags, K) before anything is trained.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "search",
        "search for S, K, alpha and the weighting with Optuna",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        default="multidigits",
        help="a YAML file, or the name of a configuration that comes with the package (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--out", metavar="DIR", help="the search's folder (default: runs/NAME-OF-CONFIG)"
    )
    parser.add_argument(
        "--trials", type=int, metavar="N", help="how many to train, all sessions together"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="how many runs at a time")
    parser.add_argument("--seed", type=int, metavar="N", help="of the trials and of the sampler")
    parser.set_defaults(handle=_handle)


def _handle(options: argparse.Namespace) -> int:
    from libmtl_recon.search import load_config, run_search

    if options.out == "":
        raise UsageError(
            "--out",
            "must be the name of a folder",
            options.out,
            "It is empty; without --out the folder is runs/ with the configuration's name.",
        )
    given = {name: getattr(options, name) for name in ("trials", "workers", "seed")}
    config = load_config(
        options.config, {name: value for name, value in given.items() if value is not None}
    )
    out = Path("runs") / Path(options.config).stem if options.out is None else options.out
    try:
        with _told_to_stop(options.own_process) as signals:
            report = run_search(config, out, lambda: bool(signals))
    except KeyboardInterrupt:
        warn(f"libmtl-recon: interrupted; the same command goes on where it stopped, in {out}")
        return INTERRUPTED
    report.print()
    return INTERRUPTED if signals else 0


@contextmanager
def _told_to_stop(own_process: bool) -> Iterator[list[int]]:
    """Have SIGTERM and a closed terminal stop the search as Ctrl-C does; yields what has come.

    Runs are then told to end, which may take some seconds. A second signal ends this process at
    once, which loses nothing either: the runs' guards see it.
    """
    signals: list[int] = []
    if not own_process or threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def told(number: int, frame: object) -> None:
        signals.append(number)
        for known in before:
            signal.signal(known, end)
        _write(b"\nlibmtl-recon: ending the runs; once more ends at once\n")

    def end(number: int, frame: object) -> None:
        if sys.stderr.isatty():
            _write(b"\x1b[?25h")  # the cursor, which the bar has hidden
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # not every system has the last
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # One that is ignored, as by nohup, stays so.
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, told)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write(text: bytes) -> None:
    # Not by Python's streams, in the middle of whose writing a signal may come.
    with suppress(OSError):
        os.write(2, text)
