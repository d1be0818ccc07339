"""Save and print the results of ``libmtl-recon score`` once the script has ended."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from libmtl_recon.cli.command import target_of
from libmtl_recon.cli.tables import print_ranking, say
from libmtl_recon.conflicts.report import report_on
from libmtl_recon.errors import ReconError, UsageError, naming
from libmtl_recon.output import OutputError, warn
from libmtl_recon.profiles.cache import Entry, export_profile

if TYPE_CHECKING:
    import argparse

    from libmtl_recon.conflicts.profile import ConflictProfile
    from libmtl_recon.integrations.libmtl.score_report import ScoreReport
    from libmtl_recon.integrations.libmtl.scoring import ScoringHook
    from libmtl_recon.integrations.libmtl.scoring_session import ScoringSession
    from libmtl_recon.profiles.cache import ProfileCache


# One line, for the terminal.
OTHERS = (
    "the script trains several models; the first one is scored, the others are only trained "
    "(--score-trainer N scores the N-th)."
)


def keep(
    session: ScoringSession, status: int, cache: ProfileCache, options: argparse.Namespace
) -> Entry | None:
    """Save what was scored, before anything is printed.

    Args:
        session: The session that scored, or that found a profile saved by another process
        meanwhile.
        status: The script's.
        cache: Where to keep the profile.
        options: The command's.

    Returns:
        The saved profile; None if the launcher has reported why there is none.

    Raises:
        ReconError: Nothing was scored, or the profile cannot be saved.
        UsageError: The Trainer that was to be scored was not built.
    """
    if session.found is not None:
        return session.found
    if session.hook.failed:
        return None  # the launcher has reported what was not finite
    profile = session.hook.profile()
    if profile is None:
        if status == 0:
            _refuse_nothing(session.hook, options)
        return None
    try:
        return Entry(cache.save(profile), profile)
    except ReconError as error:
        rescued = _rescued(profile, error, options.out)
        with contextlib.suppress(OutputError):
            print_ranking(report_on(profile, options.s), options.top)
        raise rescued from error


def show(kept: Entry, session: ScoringSession, status: int, options: argparse.Namespace) -> None:
    """Print the ranking and what to do next; write and draw the profile if requested.

    Args:
        kept: The profile, scored here or by another process.
        session: The session that scored or found it.
        status: The script's.
        options: The command's.

    Raises:
        ReconError: A file could not be written; raised after everything else was done.
        OutputError: Standard output cannot be written to.
    """
    from libmtl_recon.integrations.libmtl.score_report import score_report

    hook, here = session.hook, session.found is None
    with _never_unnamed(kept.id):
        if here and hook.trainers > 1 and not hook.calls and not options.score_trainer:
            # Seen only now, because its Trainers have their own `train`.
            warn(f"libmtl-recon: {OTHERS}")
        report = score_report(kept, options.s, options.k, hook)
        written, problems = _write_files(report, options)
        print_ranking(report.on, options.top)
        but = f" ({report.missed} more could not be read)" if report.missed else ""
        how = (
            f", scored over {report.steps} steps{but}."
            if here
            else " by the other process; no step was scored in this run."
        )
        say(f"\nKept as profile {report.id}{how}")
        for line in written:
            say(line)
        if here:
            _tell_next(report, options)
        if here and status != 0:
            warn(
                f"libmtl-recon: the script failed (exit status {status}); the profile contains "
                f"the {report.steps} steps before that."
            )
    if problems:
        raise ReconError(f"{' '.join(problems)} The scored steps are kept as profile {report.id}.")


@contextlib.contextmanager
def _never_unnamed(id: str) -> Iterator[None]:
    """Print the profile's ID on stderr if stdout fails or the user interrupts."""
    try:
        yield
    except (OutputError, KeyboardInterrupt):
        warn(f"libmtl-recon: the scored steps are kept as profile {id}.")
        raise


def _write_files(report: ScoreReport, options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Write and draw the profile if requested; return messages about successes and failures."""
    done, problems = [], []
    if options.out:
        try:
            export_profile(report.profile, options.out)
            done.append(f"Written to {options.out}.")
        except ReconError as error:
            problems.append(str(error))
    if options.plot:
        from libmtl_recon.conflicts.plot import draw_profile

        try:
            K = options.k if isinstance(options.k, int) else None
            with naming(file="--plot"):
                draw_profile(report.profile, options.plot, options.s, K)
            done.append(f"Drawn in {options.plot}.")
        except ReconError as error:
            problems.append(str(error))
        except Exception as error:  # noqa: BLE001  # a failed picture must not lose the profile
            problems.append(
                f"Cannot draw {options.plot}: Matplotlib fails with {type(error).__name__}: "
                f"{error}. Once that is fixed, `libmtl-recon layers show {report.id} --plot "
                "FILE` draws the profile."
            )
    return done, problems


def _refuse_nothing(hook: ScoringHook, options: argparse.Namespace) -> None:
    """Report why a script that ended without an error was not scored."""
    if hook.attached:
        raise ReconError(_why_nothing(hook, options))
    if hook.trainers:
        built = hook.trainers
        raise UsageError(
            "--score-trainer",
            f"must be at most {built}, the number of Trainers that {target_of(options)} builds",
            options.score_trainer,
            "Lower it, or leave it out to score the first.",
        )


def _why_nothing(hook: ScoringHook, options: argparse.Namespace) -> str:
    first, trained = hook.schedule.start, hook.trained_steps
    if 0 < trained <= first:
        return (
            f"{target_of(options)} trained {trained} steps, so --score-from {first} left none to "
            "be scored. Lower it, or train longer."
        )
    if hook.trainers > 1 and hook.calls:
        return (
            f"{target_of(options)} built {hook.trainers} Trainers, but no training step of the "
            "one to be scored was detected. Select another one with --score-trainer; it must "
            "update the network through its weighting's backward method, as EW does (LibMTL's "
            "MOML, FORUM and AutoLambda do not)."
        )
    return (
        f"{target_of(options)} built a Trainer but no training step was detected, so nothing was "
        "scored. Make the script train, e.g. with --mode train and at least one epoch, with a "
        "weighting that updates the network through its backward method, such as EW (LibMTL's "
        "MOML, FORUM and AutoLambda do not)."
    )


def _rescued(profile: ConflictProfile, error: ReconError, out: str | None) -> ReconError:
    """Return the error with the file in which the profile is saved instead."""
    file = out or str(Path(tempfile.gettempdir()) / f"libmtl-recon-{profile.id}.json")
    try:
        export_profile(profile, file)
    except ReconError as second:
        return ReconError(f"{error} {second} The scored steps are lost.")
    return ReconError(
        f"{error} The profile was written to {file}. Once the problem is fixed, import it with "
        f"`libmtl-recon layers import {shlex.quote(file)}`."
    )


def _tell_next(report: ScoreReport, options: argparse.Namespace) -> None:
    """Print how certain the profile is, and what to do next."""
    from libmtl_recon.integrations.libmtl.score_report import Next

    if report.on.sentence:
        say(report.on.sentence)
    if report.next is Next.COMPARE:
        say(
            "These are the layers that stayed shared: compare them with `libmtl-recon layers "
            "table`."
        )
    elif report.next is Next.LOWER:
        say(f"No layer conflicts at S = {options.s:g}. For an S closer to 0:")
        say(f"  libmtl-recon layers show {report.id} --s 0")
    elif report.next is Next.NOTHING:
        say("The network has a single shared layer; splitting it would leave no shared layer.")
    else:
        _propose(report, options)


def _propose(report: ScoreReport, options: argparse.Namespace) -> None:
    split, severe = report.on.split, report.on.severe
    again = shlex.join(
        ["libmtl-recon", "run", *target_of(options).words, *_without_arch(options.args)]
    )
    layers = "layer" if split == 1 else f"{split} layers"
    half = ", which reach half of the worst score" if split == severe > 1 else ""
    say(f"Next step, with the worst {layers} split{half} (choose K freely):")
    base = "" if report.base is None else f" --recon_base {report.base}"
    say(f"  {again} --arch Recon{base} --recon_s {options.s:g} --recon_k {split}")


def _without_arch(args: list[str]) -> list[str]:
    """Return the arguments without ``--arch NAME``, which argparse accepts in two forms."""
    kept: list[str] = []
    for index, word in enumerate(args):
        if word == "--arch" or word.startswith("--arch="):
            continue
        if index and args[index - 1] == "--arch":
            continue
        kept.append(word)
    return kept
