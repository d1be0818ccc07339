"""``libmtl-recon score``: where do the tasks of a script conflict?"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli.command import add_command, add_script, launch, target_of
from libmtl_recon.cli.score_schedule import add_schedule, make_schedule
from libmtl_recon.errors import ReconError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from libmtl_recon.conflict.cache import Entry
    from libmtl_recon.conflict.layers import Layer
    from libmtl_recon.conflict.profile import ConflictProfile
    from libmtl_recon.plugin.scoring import ScoringObserver

_DESCRIPTION = """\
Train a LibMTL script, unmodified, and count in every shared layer how often the gradients of two
tasks point apart. The counts are kept as a conflict profile, from which --arch Recon takes its
layers for any severity S and number K, on any data set, with any weighting.
"""
_EPILOG = """\
examples:
  libmtl-recon score main.py --weighting EW --epochs 40
  libmtl-recon score --k 25 main.py --weighting CAGrad         until the 25 worst are sure
  libmtl-recon score --steps 500 main.py --weighting EW
  libmtl-recon score --score-from 1000 --score-to 2000 main.py --weighting EW
  libmtl-recon score --steps 300 --plot conflicts.png multidigits

Scoring ends when the choice of layers would hardly change any more (see --score-until-stable), or
with the script. Ctrl-C keeps what was scored so far. Several profiles can be added up afterwards by
`libmtl-recon layers add`. Training is what it would be without being scored, up to rounding.
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
    schedule = make_schedule(options)
    if options.top < 1:
        raise UsageError("--top", "must be a whole number from 1 up", options.top, "Try 25.")
    if options.plot:
        from libmtl_recon.pictures import check_picture

        check_picture("--plot", options.plot)
    from libmtl_recon.conflict.cache import ProfileCache

    cache = ProfileCache()
    cache.prepare()
    # The script may change the working folder.
    options.out = options.out and str(Path(options.out).absolute())
    options.plot = options.plot and str(Path(options.plot).absolute())

    from libmtl_recon.cli.tables import say
    from libmtl_recon.conflict.exclusive import ScoringTurn
    from libmtl_recon.launcher import StopRun
    from libmtl_recon.plugin.scoring import ScoringObserver

    turn = ScoringTurn(cache, lambda text: say(f"libmtl-recon: {text}", error=True))
    found: list[Entry] = []

    def built(layers: tuple[Layer, ...]) -> None:
        entry = turn.enter(layers)
        if entry is not None:
            found.append(entry)
            raise StopRun

    try:
        with _progress(schedule.steps) as advance:
            observer = ScoringObserver(
                schedule, dataset=options.dataset_name, on_step=advance, on_built=built
            )
            status = launch(options, [observer])
        if found:
            _show(found[0].profile, options)
            say(f"\nKept as profile {found[0].id} by the other process; nothing was scored here.")
            return status
        return _finish(observer, status, options)
    finally:
        turn.leave()


def _finish(observer: ScoringObserver, status: int, options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say

    if observer.failed:
        return status  # the launcher has said what was not finite; nothing is kept
    profile = observer.profile()
    if profile is None:
        if status == 0 and observer.attached:
            raise ReconError(
                f"{target_of(options)} built a Trainer but no step of it was seen, so nothing was "
                "scored. Have the script train, e.g. with --mode train and at least one epoch, "
                "with a weighting that updates the network through its backward method, such as "
                "EW (of LibMTL's, MOML, FORUM and AutoLambda do not)."
            )
        return status
    _keep(profile, options)
    if status != 0:
        say(
            f"libmtl-recon: the script did not end well (exit status {status}); the profile rests "
            f"on the {profile.steps} steps before that.",
            error=True,
        )
    return status


def _keep(profile: ConflictProfile, options: argparse.Namespace) -> None:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.conflict.cache import ProfileCache

    name = ProfileCache().save(profile)
    _show(profile, options)
    where = profile.provenance
    missed = where.get("missed_steps")
    but = f" ({missed} more could not be read)" if missed else ""
    say(f"\nKept as profile {name}, scored over {profile.steps} steps{but}.")
    for kind, file in (("Written to", options.out), ("Drawn in", options.plot)):
        if file:
            say(f"{kind} {file}.")
    if "stability" in where:
        say(_how_sure(where["stability"], profile.steps))
    severe = _severe(profile, options.s)
    if not severe:
        say(f"No layer conflicts at S = {options.s:g}. For an S closer to 0:")
        say(f"  libmtl-recon layers show {name} --s 0")
        return
    again = shlex.join(
        ["libmtl-recon", "run", *target_of(options).words, *_without_arch(options.args)]
    )
    say(f"Next, with the {severe} layers that reach half of the worst score split (K is yours):")
    arch = where.get("architecture", "HPS")
    base = "" if arch in ("HPS", "Recon") else f" --recon_base {arch}"
    say(f"  {again} --arch Recon{base} --recon_s {options.s:g} --recon_k {severe}")


def _show(profile: ConflictProfile, options: argparse.Namespace) -> None:
    """Print the ranking; write and draw it where that was asked for."""
    from libmtl_recon.cli.tables import print_ranking
    from libmtl_recon.conflict.cache import export_profile

    if options.out:
        export_profile(profile, options.out)
    if options.plot:
        from libmtl_recon.conflict.plot import draw_profile

        draw_profile(profile, options.plot, options.s)
    print_ranking(profile, options.s, options.top)


def _how_sure(found: Mapping[str, Any], steps: int) -> str:
    least, most = (None, None) if found["K"] == "all" else found["K"]
    if least is None:
        what = "The ranking agrees"
    else:
        what = f"The {least if least == most else f'{least} to {most}'} worst layers agree"
    sure = f"{what} to {found['agreement']:.1%} with what other such steps would have given"
    if found["reached"]:
        return f"{sure}."
    return (
        f"{sure}, and to {found['drift']:.1%} with its later half alone: {steps} steps are too few "
        f"for the {found['wanted']:.0%} that were asked for. More epochs, or profiles of several "
        "seeds added up, make it surer."
    )


def _severe(profile: ConflictProfile, S: float) -> int:
    """How many layers have more than half of the worst score: a K to begin with."""
    scores = profile.scores(S).values()
    return sum(score > max(scores) / 2 for score in scores)


def _without_arch(args: list[str]) -> list[str]:
    """The script's arguments without ``--arch NAME``, which argparse takes in two forms."""
    kept: list[str] = []
    for index, word in enumerate(args):
        if word == "--arch" or word.startswith("--arch="):
            continue
        if index and args[index - 1] == "--arch":
            continue
        kept.append(word)
    return kept


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
    # On a terminal what the script prints goes above the bar; into a file or a pipe, as ever.
    above = sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=above) as progress:
        bar = progress.add_task("score", total=steps)
        yield lambda step: progress.update(bar, completed=step)
