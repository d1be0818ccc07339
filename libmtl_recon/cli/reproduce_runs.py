"""``libmtl-recon reproduce cosines``, ``stages`` and ``dose``: what trains a script."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from libmtl_recon.cli.reproduce_script import of_the_script, refuse_demonstration
from libmtl_recon.cli.stopping import told_to_stop
from libmtl_recon.errors import ReconError, UsageError, naming
from libmtl_recon.output import INTERRUPTED, warn

if TYPE_CHECKING:
    from libmtl_recon.conflicts.profile import ConflictProfile
    from libmtl_recon.reproduction.asked import Source, Weighting
    from libmtl_recon.reproduction.tables import Table
    from libmtl_recon.search import Network, Trainings


def weighting(text: str) -> Weighting:
    """Parse the name of a weighting with the flags for it alone."""
    from libmtl_recon.reproduction.asked import Weighting

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be valid shell words: {error}") from None
    if not words or words[0].startswith("-"):
        raise argparse.ArgumentTypeError(
            f"must be the name of a weighting, before any flags (got {text!r})"
        )
    return Weighting(words[0], tuple(words[1:]))


def weightings(text: str) -> list[Weighting]:
    """Parse several weightings, separated by commas."""
    from libmtl_recon.reproduction.cosines_picture import MOST_WEIGHTINGS

    found = list(dict.fromkeys(weighting(part) for part in text.split(",")))
    if len(found) > MOST_WEIGHTINGS:
        raise argparse.ArgumentTypeError(
            f"must be at most {MOST_WEIGHTINGS} weightings, since a picture of more cannot be "
            f"read (got {len(found)})"
        )
    return found


def cosines(options: argparse.Namespace) -> int:
    """Handle ``libmtl-recon reproduce cosines``."""
    from libmtl_recon.conflicts.grid import check_severity
    from libmtl_recon.conflicts.intervals import EDGES, check_edges, check_severe
    from libmtl_recon.profiles.selection import check_select
    from libmtl_recon.reproduction.asked import check_counts
    from libmtl_recon.reproduction.cosines import Split, tabulate, train_cosines
    from libmtl_recon.reproduction.cosines_picture import draw_cosines

    check_severity("--s", options.s)
    edges = options.edges or EDGES
    check_edges("--edges", edges)
    check_severe("--severe", options.severe, edges)
    selections = tuple(dict.fromkeys(options.select or ["conflict"]))
    for one in selections:
        check_select("--select", one)
    for name in ("select", "profile"):
        if options.k is None and getattr(options, name) is not None:
            raise UsageError(
                f"--{name}",
                "needs --k, the number of layers to split",
                getattr(options, name),
                "Give --k K, or leave it out.",
            )
    source = _source(options, options.weightings[0])
    split = None if options.k is None else Split(options.k, options.s, source, selections)

    def made(trainings: Trainings, network: Network) -> list[Table]:
        if split is not None:
            check_counts("--k", [split.K], network)
        found = train_cosines(
            trainings,
            network,
            options.weightings,
            split,
            seed=options.seed,
            score_every=options.score_every,
        )
        draw_cosines(found, trainings.folder.path / "cosines.png")
        return [tabulate(found, edges, options.severe)]

    return _reproduce(options, "cosines", options.weightings, made, picture=True)


def stages(options: argparse.Namespace) -> int:
    """Handle ``libmtl-recon reproduce stages``."""
    from libmtl_recon.conflicts.counter import MOST_BLOCKS
    from libmtl_recon.conflicts.grid import check_severity
    from libmtl_recon.reproduction.asked import check_counts
    from libmtl_recon.reproduction.stages import distances, names_of, train_stages

    check_severity("--s", options.s)
    if options.train and options.k is None:
        raise UsageError(
            "--train",
            "needs --k, the number of layers to split",
            True,
            "Give --k K, or leave it out for the distances alone.",
        )
    if not 2 <= options.stages <= MOST_BLOCKS:
        raise UsageError(
            "--stages",
            f"must be a whole number from 2 to {MOST_BLOCKS}",
            options.stages,
            "Try 4, as the paper.",
        )
    given = _given_profile(options)
    if options.script is None:
        if given is None:
            raise UsageError(
                "SCRIPT",
                "must be given unless --profile is",
                None,
                "Give a LibMTL script to train and score, or the profile of an earlier training.",
            )
        if options.train:
            raise UsageError("--train", "needs SCRIPT, which it trains", True, "Give the script.")
        return _stages_of(options, given)
    scored = _source(options)

    def made(trainings: Trainings, network: Network) -> list[Table]:
        if options.k is not None:
            check_counts("--k", [options.k], network)
        profile = given
        if profile is None:
            profile = scored.train(trainings).profile
            assert profile is not None  # it was scored
        elif options.train and set(profile.layer_names) != {one.name for one in network.layers}:
            raise ReconError(
                f"The profile {options.profile} is of another network: it has "
                f"{len(profile.layer_names)} layers, and the script's has {len(network.layers)} "
                "with other names. Give a profile of this network."
            )
        parts = names_of(profile, options.stages)
        tables = [distances(parts, options.s, options.k)]
        if options.train:
            single = options.baseline == "single"
            tables.append(
                train_stages(
                    trainings,
                    network,
                    parts,
                    options.weighting,
                    options.k,
                    options.s,
                    seed=options.seed,
                    single=single,
                )
            )
        return tables

    return _reproduce(options, "stages", [options.weighting], made)


def dose(options: argparse.Namespace) -> int:
    """Handle ``libmtl-recon reproduce dose``."""
    from libmtl_recon.conflicts.grid import check_severity
    from libmtl_recon.reproduction.asked import check_counts
    from libmtl_recon.reproduction.dose import Grid, tabulate, train_doses
    from libmtl_recon.reproduction.dose_picture import draw_dose

    check_severity("--s", options.s)
    for severity in options.ss:
        check_severity("--ss", severity)
    ks = tuple(sorted(k for k in options.ks if k > 0))
    if not ks:
        raise UsageError(
            "--ks",
            "must contain a number of layers from 1 up",
            options.ks,
            "All layers shared, K = 0, is always trained.",
        )
    K = ks[len(ks) // 2] if options.k is None else options.k
    grid = Grid(ks, tuple(sorted(options.ss)), K, options.s)
    single = options.baseline == "single"
    source = _source(options)

    def made(trainings: Trainings, network: Network) -> list[Table]:
        check_counts("--ks", ks, network)
        check_counts("--k", [K], network)
        doses = train_doses(
            trainings, network, options.weighting, grid, source, options.seeds, single=single
        )
        draw_dose(
            {
                one.K: one.gains
                for one in doses
                if one.S is None or (one.S == grid.S and one.K in ks)
            },
            {one.S: one.gains for one in doses if one.K == K and one.S in grid.ss},
            K,
            grid.S,
            trainings.folder.path / "dose.png",
            "single-task training" if single else "sharing all layers",
        )
        return [tabulate(doses, options.weighting, single)]

    return _reproduce(options, "dose", [options.weighting], made, picture=True)


def _reproduce(
    options: argparse.Namespace,
    what: str,
    asked: Sequence[Weighting],
    made: Callable[[Trainings, Network], list[Table]],
    *,
    picture: bool = False,
) -> int:
    """Train what a command needs, print its tables, and write them to the folder."""
    from libmtl_recon.cli.tables import say
    from libmtl_recon.reproduction.tables import write_tables
    from libmtl_recon.search import Trainings

    refuse_demonstration(options.script)
    architecture, arguments = of_the_script(options.args, asked)
    folder = Path(options.out or Path("runs") / "reproduce" / Path(options.script).stem)
    with told_to_stop(options.own_process) as signals:
        trainings = Trainings(
            options.script,
            arguments,
            folder,
            architecture=architecture,
            workers=options.workers,
            threads=options.threads,
            asked_to_stop=lambda: bool(signals),
        )
        flag = "--weightings" if len(asked) > 1 or what == "cosines" else "--weighting"
        try:
            with (
                naming(weightings=flag, stages="--stages", K="--k", S="--s", select="--select"),
                trainings.opened(),
            ):
                network = trainings.look([(one.name, one.flags) for one in asked])
                tables = made(trainings, network)
        except KeyboardInterrupt:
            warn(
                f"libmtl-recon: interrupted; the same command resumes where it stopped, in {folder}"
            )
            return INTERRUPTED
    command = shlex.join([*_given(options, what), options.script, *options.args])
    more = [f"![{what}]({what}.png)"] if picture else []
    with naming(out="--out"):
        write_tables(
            folder / f"{what}.md",
            f"{what} of {Path(options.script).name}",
            tables,
            [*more, f"    {command}"],
        )
    _print(tables)
    drawn = f" Drawn in {folder / what}.png." if picture else ""
    say(f"Written to {folder / what}.md.{drawn}")
    return INTERRUPTED if signals else 0


def _stages_of(options: argparse.Namespace, profile: ConflictProfile) -> int:
    """Print the distances between the stages of a profile that exists."""
    from libmtl_recon.conflicts.profile import check_split_count
    from libmtl_recon.reproduction.stages import distances, names_of

    if options.k is not None:
        check_split_count("--k", options.k, len(profile.architecture))
    with naming(stages="--stages"):
        _print([distances(names_of(profile, options.stages), options.s, options.k)])
    return 0


def _print(tables: Sequence[Table]) -> None:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.consoles import make_console

    for one in tables:
        console = make_console()
        say(f"{one.title}:")
        # Some headings may be equal, such as those of two weightings with long flags.
        table = make_table(console, *one.headings, right=one.headings[1:])
        for row in one.rows:
            table.add_row(*row)
        show_table(console, table)
        say("")


def _given(options: argparse.Namespace, what: str) -> list[str]:
    """Return the words of the command with the flags that determine its results."""
    words = ["libmtl-recon", "reproduce", what]
    if hasattr(options, "weightings"):
        words.append(f"--weightings={','.join(_spelt(one) for one in options.weightings)}")
    else:
        words.append(f"--weighting={_spelt(options.weighting)}")
    for name in ("select", "edges", "ks", "ss", "seeds"):
        given = getattr(options, name, None)
        if given:
            words.append(f"--{name}={','.join(str(one) for one in given)}")
    for name in ("severe", "k", "s", "stages", "seed", "profile", "baseline", "score_every"):
        given = getattr(options, name, None)
        if given is not None:
            words.append(f"--{name.replace('_', '-')}={given}")
    return [*words, "--train"] if getattr(options, "train", False) else words


def _spelt(one: Weighting) -> str:
    return shlex.join([one.name, *one.flags])


def _source(options: argparse.Namespace, scored: Weighting | None = None) -> Source:
    from libmtl_recon.reproduction.asked import Source, Weighting

    _given_profile(options)
    seed = options.seeds[0] if hasattr(options, "seeds") else options.seed
    return Source(options.profile, options.score_every, seed, scored or Weighting("EW"))


def _given_profile(options: argparse.Namespace) -> ConflictProfile | None:
    """Return the profile that --profile names, if it is given."""
    from libmtl_recon.profiles.cache import ProfileCache

    if options.profile is None:
        return None
    return ProfileCache().load_or_read(options.profile, "--profile")
