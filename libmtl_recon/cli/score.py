"""``libmtl-recon score``: where do the tasks of a script conflict?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli.run import add_script
from libmtl_recon.errors import ReconError, UsageError

if TYPE_CHECKING:
    from libmtl_recon.conflict.profile import ConflictProfile

_DESCRIPTION = """\
Train a LibMTL script, unmodified, and count in every shared layer how often the gradients of two
tasks point apart. The counts are kept as a conflict profile, from which --arch Recon takes its
layers for any severity S and number K, on any data set, with any weighting.
"""
_EPILOG = """\
examples:
  libmtl-recon score main.py --weighting EW --epochs 5
  libmtl-recon score --steps 500 main.py --weighting CAGrad
  libmtl-recon score --steps 300 --plot conflicts.png multidigits

Ctrl-C keeps what was scored so far. Training itself is not changed by being scored.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "score",
        help="train a script and count the conflicts in each shared layer",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="end the run after N training steps (default: all)"
    )
    parser.add_argument(
        "--s",
        type=float,
        default=-0.1,
        metavar="S",
        help="severity of the ranking that is printed (default: %(default)s); the profile has all",
    )
    parser.add_argument(
        "--top", type=int, default=25, metavar="N", help="layers to print (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="FILE", help="write the profile to this file as well")
    parser.add_argument("--plot", metavar="FILE", help="draw the profile, as .png, .svg or .pdf")
    parser.add_argument(
        "--dataset-name",
        metavar="NAME",
        help="the data set's name in the profile (default: the script's --dataset, or its name)",
    )
    add_script(parser)
    parser.set_defaults(handle=_handle)


def _handle(options: argparse.Namespace) -> int:
    # What can be wrong is looked at before the training, not after it.
    from libmtl_recon.conflict.grid import check_severity

    check_severity("--s", options.s)
    if options.steps is not None and options.steps < 1:
        raise UsageError("--steps", "must be a whole number from 1 up", options.steps, "Try 500.")
    if options.plot:
        from libmtl_recon.conflict.plot import check_picture

        check_picture("--plot", options.plot)

    from libmtl_recon.launcher import run_script
    from libmtl_recon.plugin.scoring import ScoringObserver

    with _progress(options.steps) as advance:
        observer = ScoringObserver(options.steps, dataset=options.dataset_name, on_step=advance)
        status = run_script(options.script, options.args, observers=[observer])
    profile = observer.profile()
    if profile is None:
        if status == 0:
            raise ReconError(
                f"{options.script} built a Trainer but trained no step, so nothing was scored. "
                "Have the script train, e.g. with --mode train and at least one epoch."
            )
        return status
    _keep(profile, options)
    if status != 0:
        print(
            f"libmtl-recon: the script did not end well (exit status {status}); the profile rests "
            f"on the {profile.steps} steps before that.",
            file=sys.stderr,
        )
    return status


def _keep(profile: ConflictProfile, options: argparse.Namespace) -> None:
    from libmtl_recon.cli.tables import print_ranking
    from libmtl_recon.conflict.cache import ProfileCache, export_profile

    name = ProfileCache().save(profile)
    if options.out:
        export_profile(profile, options.out)
    if options.plot:
        from libmtl_recon.conflict.plot import draw_profile

        draw_profile(profile, options.plot, options.s)
    print_ranking(profile, options.s, options.top)
    print(f"\nKept as profile {name}, scored over {profile.steps} steps.")
    print("Next: libmtl-recon run SCRIPT ARGS... --arch Recon --recon_k K", end="")
    print(f" --recon_s {options.s:g}")


@contextmanager
def _progress(steps: int | None) -> Iterator[Any]:
    """A progress bar on stderr, if that is a terminal; yields what to call with the step."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("scored steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("score", total=steps)
        yield lambda step: progress.update(bar, completed=step)
