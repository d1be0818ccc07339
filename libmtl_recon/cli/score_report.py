"""What ``libmtl-recon score`` keeps and prints once the script has ended."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from libmtl_recon.cli.command import target_of
from libmtl_recon.cli.tables import print_ranking, say
from libmtl_recon.conflicts.stability import in_words
from libmtl_recon.errors import ReconError, UsageError, naming
from libmtl_recon.output import OutputError, warn
from libmtl_recon.profiles.cache import Entry, export_profile

if TYPE_CHECKING:
    import argparse

    from libmtl_recon.conflicts.profile import ConflictProfile
    from libmtl_recon.integrations.libmtl.scoring import ScoringHook
    from libmtl_recon.profiles.cache import ProfileCache


# One line, for the terminal.
OTHERS = (
    "the script trains several models; the first that it builds is scored, the others are only "
    "trained (--score-trainer N scores the N-th)."
)


def keep(
    observer: ScoringHook, status: int, cache: ProfileCache, options: argparse.Namespace
) -> Entry | None:
    """Keep what was scored, before anything is said of it.

    Args:
        observer: Has scored.
        status: The script's.
        cache: Where to keep the profile.
        options: The command's.

    Returns:
        What was kept; None where the launcher has said why there is nothing.

    Raises:
        ReconError: Nothing was scored, or it cannot be kept.
        UsageError: The Trainer that was to be scored was not built.
    """
    if observer.failed:
        return None  # the launcher has said what was not finite
    profile = observer.profile()
    if profile is None:
        if status == 0:
            _refuse_nothing(observer, options)
        return None
    try:
        return Entry(cache.save(profile), profile)
    except ReconError as error:
        rescued = _rescued(profile, error, options.out)
        with contextlib.suppress(OutputError):
            print_ranking(profile, options.s, options.top)
        raise rescued from error


def report(kept: Entry, observer: ScoringHook, status: int, options: argparse.Namespace) -> None:
    """Print the ranking and what to do next; write and draw the profile where asked for.

    Args:
        kept: What was scored.
        observer: Has scored it.
        status: The script's.
        options: The command's.

    Raises:
        ReconError: A file could not be written, which is raised after all else was done.
        OutputError: Standard output cannot be written to.
    """
    with _never_unnamed(kept):
        if observer.trainers > 1 and not observer.calls and not options.score_trainer:
            # Seen only now, for its Trainers have a `train` of their own.
            warn(f"libmtl-recon: {OTHERS}")
        written, problems = _write_files(kept, options)
        but = f" ({observer.missed} more could not be read)" if observer.missed else ""
        steps = kept.profile.steps
        print_ranking(kept.profile, options.s, options.top)
        say(f"\nKept as profile {kept.id}, scored over {steps} steps{but}.")
        for line in written:
            say(line)
        _tell_next(kept, observer, options)
        if status != 0:
            warn(
                f"libmtl-recon: the script did not end well (exit status {status}); the profile "
                f"rests on the {steps} steps before that."
            )
    _raise(problems, kept)


def say_found(found: Entry, options: argparse.Namespace) -> None:
    """The same for what another process kept, while this one waited for it."""
    with _never_unnamed(found):
        written, problems = _write_files(found, options)
        print_ranking(found.profile, options.s, options.top)
        say(f"\nKept as profile {found.id} by the other process; nothing was scored here.")
        for line in written:
            say(line)
    _raise(problems, found)


@contextlib.contextmanager
def _never_unnamed(kept: Entry) -> Iterator[None]:
    """Where stdout fails, or the user has seen enough, the profile is named on stderr."""
    try:
        yield
    except (OutputError, KeyboardInterrupt):
        warn(f"libmtl-recon: what was scored is kept as profile {kept.id}.")
        raise


def _write_files(kept: Entry, options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Write and draw the profile where asked for; what was done, and what could not be."""
    done, problems = [], []
    if options.out:
        try:
            export_profile(kept.profile, options.out)
            done.append(f"Written to {options.out}.")
        except ReconError as error:
            problems.append(str(error))
    if options.plot:
        from libmtl_recon.conflicts.plot import draw_profile

        try:
            K = options.k if isinstance(options.k, int) else None
            with naming(file="--plot"):
                draw_profile(kept.profile, options.plot, options.s, K)
            done.append(f"Drawn in {options.plot}.")
        except ReconError as error:
            problems.append(str(error))
        except Exception as error:  # noqa: BLE001  # a picture must not cost what was scored
            problems.append(
                f"Cannot draw {options.plot}: Matplotlib fails by {type(error).__name__}: {error}. "
                f"`libmtl-recon layers show {kept.id} --plot FILE` draws it once that is set right."
            )
    return done, problems


def _raise(problems: list[str], kept: Entry) -> None:
    if problems:
        raise ReconError(f"{' '.join(problems)} What was scored is kept as profile {kept.id}.")


def _refuse_nothing(observer: ScoringHook, options: argparse.Namespace) -> None:
    """Say why a script that ended well was not scored."""
    if observer.attached:
        raise ReconError(_why_nothing(observer, options))
    if observer.trainers:
        built = observer.trainers
        raise UsageError(
            "--score-trainer",
            f"must be at most {built}, the number of Trainers that {target_of(options)} builds",
            options.score_trainer,
            "Lower it, or leave it out to score the first.",
        )


def _why_nothing(observer: ScoringHook, options: argparse.Namespace) -> str:
    first, trained = observer.schedule.start, observer.trained_steps
    if 0 < trained <= first:
        return (
            f"{target_of(options)} trained {trained} steps, so that --score-from {first} left none "
            "to be scored. Lower it, or train longer."
        )
    if observer.trainers > 1 and observer.calls:
        return (
            f"{target_of(options)} built {observer.trainers} Trainers, but no step of the one that "
            "was to be scored was seen. Name another one by --score-trainer; it must update the "
            "network through its weighting's backward method, as EW does (of LibMTL's, MOML, "
            "FORUM and AutoLambda do not)."
        )
    return (
        f"{target_of(options)} built a Trainer but no step of it was seen, so nothing was scored. "
        "Have the script train, e.g. with --mode train and at least one epoch, with a weighting "
        "that updates the network through its backward method, such as EW (of LibMTL's, MOML, "
        "FORUM and AutoLambda do not)."
    )


def _rescued(profile: ConflictProfile, error: ReconError, out: str | None) -> ReconError:
    """The error, and where the profile is instead: hours of training may be in it."""
    file = out or str(Path(tempfile.gettempdir()) / f"libmtl-recon-{profile.id}.json")
    try:
        export_profile(profile, file)
    except ReconError as second:
        return ReconError(f"{error} {second} What was scored is lost.")
    return ReconError(
        f"{error} What was scored is in {file}: `libmtl-recon layers import {shlex.quote(file)}` "
        "keeps it once that is set right."
    )


def _tell_next(kept: Entry, observer: ScoringHook, options: argparse.Namespace) -> None:
    """How sure the profile is, and what to do next."""
    name, profile = kept.id, kept.profile
    judged = observer.schedule.judged
    if judged is not None:
        say(in_words(judged.look(profile), judged.confidence))
    arch = profile.provenance.get("architecture", "HPS")
    if arch == "Recon":
        say("These are the layers that stayed shared: compare them by `libmtl-recon layers table`.")
        return
    severe = _severe(profile, options.s)
    if not severe:
        say(f"No layer conflicts at S = {options.s:g}. For an S closer to 0:")
        say(f"  libmtl-recon layers show {name} --s 0")
        return
    split = _proposed(severe, len(profile.architecture), options.k)
    if not split:
        say("The network shares a single layer, so that there is none to split beside it.")
        return
    again = shlex.join(
        ["libmtl-recon", "run", *target_of(options).words, *_without_arch(options.args)]
    )
    layers = "layer" if split == 1 else f"{split} layers"
    half = ", which reach half of the worst score" if split == severe > 1 else ""
    say(f"Next, with the worst {layers} split{half} (K is yours):")
    base = "" if arch == "HPS" else f" --recon_base {arch}"
    say(f"  {again} --arch Recon{base} --recon_s {options.s:g} --recon_k {split}")


def _proposed(severe: int, layers: int, asked: int | range | None) -> int:
    """A K to begin with: what ``--k`` says, else the severe ones, but never the whole network."""
    if asked is None:
        return min(severe, layers - 1)
    return asked if isinstance(asked, int) else max(asked[0], min(severe, asked[-1]))


def _severe(profile: ConflictProfile, S: float) -> int:
    """How many layers have more than half of the worst score."""
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
