"""``libmtl-recon layers compare``, ``add``, ``table`` and ``plot``: work with several profiles."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli.parsing import add_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from libmtl_recon.conflicts.profile import ConflictProfile

_SOURCE = "the ID of a profile, or the file of an exported one"


def add_actions(actions: Any) -> None:
    """Add the actions to those of ``libmtl-recon layers``."""
    compare = actions.add_parser(
        "compare",
        help="compare two rankings: Eq. 22 distance and overlap of the worst layers",
        description="The distance of Eq. 22 of the Recon paper is the mean over all layers of "
        "the difference in rank. For reference, the table also shows two rankings that need no "
        "measurement: a random one, and normalisation layers first, then network order.",
    )
    compare.add_argument(
        "profiles",
        metavar="PROFILE",
        nargs=2,
        help="the ID of a profile or an imported ranking, the name of a built-in profile, or a "
        "file: an exported profile, a JSON object {layer: score}, or a JSON list of layers, "
        "worst first",
    )
    _add_severity(compare)
    add_matching(compare, "only one of the two has")
    compare.set_defaults(handle=_compare)

    add = actions.add_parser(
        "add",
        help="add profiles of one architecture: several seeds, weightings or data sets",
    )
    add.add_argument("profiles", metavar="PROFILE", nargs="+", help=_SOURCE)
    _add_severity(add)
    add.add_argument(
        "--k",
        type=int,
        metavar="K",
        help="the number of worst layers whose stability the sum records (default: that of the "
        "whole ranking)",
    )
    add.set_defaults(handle=_add)

    table = actions.add_parser(
        "table",
        help="show the shares of cosines in intervals, and their reduction: Tables 6 and 8 to "
        "10 of the paper",
        description="Show the distribution of the cosines of the tasks' gradients, in percent "
        "of steps and pairs of tasks. Reduction is the percentage by which the share below an "
        "edge is smaller than in the first profile.",
    )
    table.add_argument("profiles", metavar="PROFILE", nargs="+", help=_SOURCE)
    add_edges(table)
    table.add_argument(
        "--layers",
        action="store_true",
        help="count each layer that all the profiles contain separately, instead of the whole "
        "shared gradient",
    )
    table.set_defaults(handle=_table)

    plot = actions.add_parser(
        "plot",
        help="draw the distribution of the cosines of several profiles: Figures 1 and 4 "
        "of the paper",
    )
    plot.add_argument("profiles", metavar="PROFILE", nargs="+", help=_SOURCE)
    plot.add_argument(
        "--out", metavar="FILE", required=True, help="the .png, .svg or .pdf file to write"
    )
    _add_severity(plot)
    plot.set_defaults(handle=_plot)


def _add_severity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--s", type=float, default=-0.1, metavar="S", help="severity (default: %(default)s)"
    )


def add_matching(parser: argparse.ArgumentParser, lacking: str) -> None:
    """Add the flags for names of layers that are not the network's own.

    Args:
        parser: An action's.
        lacking: Which layers ``--skip-missing`` leaves out.
    """
    parser.add_argument(
        "--match",
        metavar="WAY",
        default="names",
        help="how the names of layers are matched: names: the same names, with or without "
        "wrappers (module., _orig_mod., encoder., .m_list.0); order: the same positions in "
        "the network; order:FILE: the same, where FILE is a JSON list of the names in network "
        "order (default: %(default)s)",
    )
    parser.add_argument(
        "--skip-missing", action="store_true", help=f"leave out layers that {lacking}"
    )


def _load(sources: Sequence[str]) -> list[ConflictProfile]:
    from libmtl_recon.profiles.cache import ProfileCache

    cache = ProfileCache()
    return [cache.load_or_read(source, "PROFILE") for source in sources]


def _compare(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import make_table, print_matching, say, show_table
    from libmtl_recon.conflicts.grid import check_severity
    from libmtl_recon.consoles import make_console
    from libmtl_recon.errors import naming
    from libmtl_recon.profiles.cache import ProfileCache
    from libmtl_recon.profiles.comparing import compare_given, given_as
    from libmtl_recon.profiles.sources import describe
    from libmtl_recon.texts import shorten

    cache = ProfileCache()
    with naming(S="--s", match="--match", skip_missing="--skip-missing", source="PROFILE"):
        check_severity("S", options.s)  # before a profile is read
        one, other = (given_as(source, cache, "PROFILE") for source in options.profiles)
        compared = compare_given(one, other, options.s, options.match, options.skip_missing)
    found = compared.found
    for letter, given, agreement in zip("AB", (one, other), found.agreements, strict=True):
        if given.profile is not None and agreement is not None:
            origin = describe(given.profile)
            say(f"{letter}: {origin}; agreement of its ranking with itself: {agreement:.0%}")
        else:
            what = "its scores" if given.scores is not None else "its order"
            say(f"{letter}: {given.title}, by {what} (to which --s does not apply)")
    for letter, names in zip("AB", compared.left_out, strict=True):
        if names:
            say(f"Left out, since only {letter} has them: {shorten(names)}.")
    print_matching(compared.matching)
    said = f"{found.layers} layers; distances by Eq. 22 (0: the same ranking)"
    say(f"\nAt S = {options.s:g}, {said}:")
    console = make_console()
    numbers = ("distance", *(f"top {K}" for K in found.tops))
    table = make_table(console, "", *numbers, right=numbers)
    rows = {"A and B": found.together}
    if found.trivial is not None:
        rows["A and norms first"], rows["B and norms first"] = found.trivial
    rows["by chance"] = found.chance
    for name, like in rows.items():
        table.add_row(name, f"{like.distance:.2f}", *(f"{share:.0%}" for share in like.overlaps))
    show_table(console, table)
    return 0


def _add(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.conflicts.grid import check_severity
    from libmtl_recon.conflicts.merge import add_profiles
    from libmtl_recon.conflicts.profile import check_split_count
    from libmtl_recon.conflicts.schedule import UntilStable
    from libmtl_recon.profiles.cache import ProfileCache

    check_severity("--s", options.s)
    profiles = _load(options.profiles)
    if options.k is not None:
        check_split_count("--k", options.k, len(profiles[0].architecture))
    asked = UntilStable.usual(options.s, options.k)
    total = add_profiles(profiles, asked)
    name = ProfileCache().save(total)
    say(f"Kept as profile {name}, the sum of {len(profiles)} profiles over {total.steps} steps.")
    say(str(asked.check(total)))
    return 0


def _table(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.conflicts.intervals import EDGES, common_layers, intervals
    from libmtl_recon.consoles import make_console
    from libmtl_recon.errors import naming
    from libmtl_recon.profiles.sources import titles

    profiles = _load(options.profiles)
    layers = common_layers(profiles) if options.layers else None
    with naming(edges="--edges", severe="--severe"):
        found = intervals(profiles, options.edges or EDGES, layers, severe=options.severe)
    headings = titles(profiles)
    console = make_console()
    table = make_table(console, "cosine", *headings, right=tuple(headings))
    for row in found.rows:
        table.add_row(*row)
    what = f"{len(layers)} layers, counted separately" if layers else "the whole shared gradient"
    say(f"Percentages of steps and pairs of tasks, {what}:")
    show_table(console, table)
    return 0


def _plot(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.conflicts.distribution import draw_distributions
    from libmtl_recon.errors import naming
    from libmtl_recon.profiles.sources import titles

    profiles = _load(options.profiles)
    drawn = dict(zip(titles(profiles), profiles, strict=True))
    with naming(file="--out", S="--s"):
        draw_distributions(drawn, options.out, options.s)
    say(f"Drawn in {options.out}.")
    return 0
