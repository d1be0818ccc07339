"""What ``libmtl-recon score`` keeps and prints once the script has ended."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from libmtl_recon.cli.command import target_of
from libmtl_recon.cli.tables import print_ranking, say
from libmtl_recon.conflict.cache import export_profile
from libmtl_recon.conflict.stability import in_words
from libmtl_recon.errors import ReconError

if TYPE_CHECKING:
    import argparse

    from libmtl_recon.conflict.cache import ProfileCache
    from libmtl_recon.conflict.profile import ConflictProfile
    from libmtl_recon.plugin.scoring import ScoringObserver


def finish(
    observer: ScoringObserver, status: int, cache: ProfileCache, options: argparse.Namespace
) -> int:
    """Keep and show what was scored; returns the exit status.

    Args:
        observer: Has scored.
        status: The script's.
        cache: Where to keep the profile.
        options: The command's.

    Raises:
        ReconError: Nothing was scored, or it cannot be kept.
    """
    if observer.failed:
        return status  # the launcher has said what was not finite; nothing is kept
    profile = observer.profile()
    if profile is None:
        if status == 0 and observer.attached:
            raise ReconError(_why_nothing(observer, options))
        return status
    try:
        name = cache.save(profile)
    except ReconError as error:
        print_ranking(profile, options.s, options.top)
        raise _rescued(profile, error, options.out) from error
    show(profile, options)
    _tell(name, profile, observer, options)
    if status != 0:
        say(
            f"libmtl-recon: the script did not end well (exit status {status}); the profile rests "
            f"on the {profile.steps} steps before that.",
            error=True,
        )
    return status


def show(profile: ConflictProfile, options: argparse.Namespace) -> None:
    """Print the ranking; write and draw it where that was asked for.

    Args:
        profile: What was scored.
        options: The command's.

    Raises:
        ReconError: A file cannot be written.
    """
    if options.out:
        export_profile(profile, options.out)
    if options.plot:
        from libmtl_recon.conflict.plot import draw_profile

        draw_profile(profile, options.plot, options.s)
    print_ranking(profile, options.s, options.top)


def _why_nothing(observer: ScoringObserver, options: argparse.Namespace) -> str:
    first, trained = observer.schedule.start, observer.trained_steps
    if 0 < trained <= first:
        return (
            f"{target_of(options)} trained {trained} steps, so that --score-from {first} left none "
            "to be scored. Lower it, or train longer."
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
        "keeps it once that is mended."
    )


def _tell(
    name: str, profile: ConflictProfile, observer: ScoringObserver, options: argparse.Namespace
) -> None:
    """What was kept, how sure it is, and what to do next."""
    but = f" ({observer.missed} more could not be read)" if observer.missed else ""
    say(f"\nKept as profile {name}, scored over {profile.steps} steps{but}.")
    for kind, file in (("Written to", options.out), ("Drawn in", options.plot)):
        if file:
            say(f"{kind} {file}.")
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
