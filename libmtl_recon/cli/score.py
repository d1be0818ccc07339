"""``libmtl-recon score``: measure in which layers the tasks of a script conflict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli.command import add_command, add_script, launch
from libmtl_recon.cli.score_schedule import add_schedule, make_schedule
from libmtl_recon.errors import UsageError
from libmtl_recon.files import check_writable

if TYPE_CHECKING:
    from libmtl_recon.conflicts.schedule import Schedule

_DESCRIPTION = """\
Train a LibMTL script, unmodified, and count the cosines of the gradients of each pair of tasks in
every shared layer. The counts are kept as a conflict profile, from which --arch Recon takes its
layers for any severity S (the cosine below which tasks conflict) and number K of layers, on any
data set, with any weighting.
"""
_EPILOG = """\
examples:
  libmtl-recon score main.py --weighting EW --epochs 40
  libmtl-recon score --k 25 main.py --weighting CAGrad         until the 25 worst are certain
  libmtl-recon score --steps 500 main.py --weighting EW
  libmtl-recon score --score-from 1000 --score-to 2000 main.py --weighting EW
  libmtl-recon score --score-trainer 2 folds.py                the second of several Trainers
  libmtl-recon score --steps 300 --plot conflicts.png multidigits

Scoring ends when the choice of layers would hardly change any more (see --score-until-stable), or
with the script. All calls of a Trainer's `train` count. After Ctrl-C, SIGTERM and a closed
terminal, what was scored so far is kept; if the process is killed in another way, the next command
keeps all but the last minute. Several profiles can be added with `libmtl-recon layers add`.
Training gives the same results as without scoring, up to rounding.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "score",
        "train a script and count the conflicts in each shared layer",
        _DESCRIPTION,
        _EPILOG,
    )
    add_schedule(parser)
    parser.add_argument(
        "--score-trainer",
        type=int,
        metavar="N",
        help="which Trainer to score if a script builds several, counted in the order in which "
        "it builds them (default: 1, the first)",
    )
    parser.add_argument(
        "--s",
        type=float,
        default=-0.1,
        metavar="S",
        help="severity of the ranking that is printed (default: %(default)s); the profile "
        "contains all severities",
    )
    parser.add_argument(
        "--top",
        type=int,
        default=25,
        metavar="N",
        help="number of layers to print (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="FILE", help="also write the profile to this file")
    parser.add_argument("--plot", metavar="FILE", help="draw the profile, as .png, .svg or .pdf")
    parser.add_argument(
        "--dataset-name",
        metavar="NAME",
        help="name of the data set in the profile (default: the script's --dataset, or its name)",
    )
    add_script(parser)
    parser.set_defaults(handle=_handle, on_ranks=True)


def _handle(options: argparse.Namespace) -> int:
    # All that can be checked is checked before the training, not after it.
    from libmtl_recon.conflicts.grid import check_severity

    check_severity("--s", options.s)
    schedule = make_schedule(options)
    if options.top < 1:
        raise UsageError("--top", "must be a whole number from 1 up", options.top, "Try 25.")
    if options.score_trainer is not None and options.score_trainer < 1:
        raise UsageError(
            "--score-trainer",
            "must be a whole number from 1 up",
            options.score_trainer,
            "1 scores the first Trainer that the script builds.",
        )
    if options.out is not None:
        check_writable("--out", options.out)
    if options.plot is not None:
        from libmtl_recon.pictures import check_picture

        check_picture("--plot", options.plot)
    from libmtl_recon.integrations.libmtl.data_parallel.environment import is_first
    from libmtl_recon.profiles.cache import ProfileCache

    if not is_first():
        return _score_along(options, schedule)
    cache = ProfileCache()
    cache.prepare()
    # The script may change the working folder.
    options.out = options.out and str(Path(options.out).absolute())
    options.plot = options.plot and str(Path(options.plot).absolute())

    from libmtl_recon.cli.score_ending import ended_like_interrupted, held_back
    from libmtl_recon.cli.score_report import OTHERS, keep, show
    from libmtl_recon.integrations.libmtl.scoring_session import ScoringSession
    from libmtl_recon.output import INTERRUPTED, OutputError, released, warn

    def tell(text: str) -> None:
        warn(f"libmtl-recon: {text}")

    session = ScoringSession(
        cache,
        schedule,
        tell,
        on_recovered=lambda left: tell(
            f"{left} `libmtl-recon layers add` adds them to those of this run."
        ),
        on_step=lambda step: advance(step),
        on_other=lambda: None if options.score_trainer else tell(OTHERS),
        dataset=options.dataset_name,
        trainer=options.score_trainer or 1,
    )
    errors = sys.stderr  # failures to write to it are ignored, unlike the script's
    with session, ended_like_interrupted(options.own_process):
        try:
            with released(), _progress(schedule.steps, errors) as advance:
                status = launch(options, [session.hook])
        except KeyboardInterrupt:  # a second one, while the first was handled
            status = INTERRUPTED
        with held_back() as signals:
            kept = keep(session, status, cache, options)
            session.end()  # not if saving failed: then the recovery file is the only copy
        try:
            if kept is not None:
                show(kept, session, status, options)
        except OutputError:
            if status == 0:
                raise
    return INTERRUPTED if signals else status


def _score_along(options: argparse.Namespace, schedule: Schedule) -> int:
    """Score on a rank that does not save or print anything."""
    from libmtl_recon.cli.score_ending import ended_like_interrupted
    from libmtl_recon.integrations.libmtl.scoring import ScoringHook

    hook = ScoringHook(schedule, trainer=options.score_trainer or 1)
    with ended_like_interrupted(options.own_process):
        return launch(options, [hook])


@contextmanager
def _progress(steps: int | None, stream: Any) -> Iterator[Any]:
    """Show a progress bar, if stderr is a terminal; yields a function that takes the step."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(file=stream)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (TextColumn("scored steps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On a terminal the script's output goes above the bar; in a file or a pipe, unchanged.
    above = sys.stdout is not None and sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=above) as progress:
        bar = progress.add_task("score", total=steps)
        yield lambda step: progress.update(bar, completed=step)
