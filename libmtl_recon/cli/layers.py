"""``libmtl-recon layers``: work with the conflict profiles stored on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from libmtl_recon.cli import profiles
from libmtl_recon.cli.command import add_command
from libmtl_recon.texts import bounded

if TYPE_CHECKING:
    from libmtl_recon.profiles.cache import RankingEntry

# Characters of a line about a profile's origin; of profiles that were added up, lines.
_LONGEST, _MOST_ADDED = 1000, 100
_DESCRIPTION = """\
List, show, compare, add, tabulate, draw, export, import and remove the conflict profiles that
`libmtl-recon score` keeps, one JSON file each, in the user's cache folder (or the folder in
LIBMTL_RECON_CACHE).
"""
_EPILOG = """\
examples:
  libmtl-recon layers list
  libmtl-recon layers show                      the ranking of the newest profile
  libmtl-recon layers show 3f2a --s -0.05 --k 12 --plot conflicts.png
  libmtl-recon layers export 3f2a resnet18.json
  libmtl-recon run main.py --arch Recon --recon_k 12 --recon_layers resnet18.json
  libmtl-recon layers compare 3f2a 90cd         how similar are two rankings?
  libmtl-recon layers compare 3f2a published.json --skip-missing
  libmtl-recon layers import published.json     under the names of the network in the cache
  libmtl-recon layers add 3f2a 90cd             the sum of two profiles
  libmtl-recon layers table 3f2a 90cd --layers  shares of cosines, per layer
  libmtl-recon layers plot 3f2a 90cd --out cosines.png

An ID may be shortened to its first characters. Built-in profiles have names in place of IDs.
"""


def add_parser(commands: Any) -> None:
    """Add the subcommand."""
    parser = add_command(
        commands,
        "layers",
        "show, compare, add, draw, export and import conflict profiles",
        _DESCRIPTION,
        _EPILOG,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    actions.add_parser("list", help="list all profiles, newest first").set_defaults(handle=_list)

    show = actions.add_parser("show", help="show a profile's origin and its ranking of layers")
    show.add_argument("id", metavar="ID", nargs="?", help="the profile (default: the newest)")
    show.add_argument(
        "--s", type=float, default=-0.1, metavar="S", help="severity (default: %(default)s)"
    )
    show.add_argument(
        "--k", type=int, metavar="K", help="show only the K worst layers, which --recon_k K splits"
    )
    show.add_argument("--plot", metavar="FILE", help="draw the profile, as .png, .svg or .pdf")
    show.set_defaults(handle=_show)

    export = actions.add_parser("export", help="write a profile to a file")
    export.add_argument("id", metavar="ID")
    export.add_argument("file", metavar="FILE")
    export.set_defaults(handle=_export)

    import_ = actions.add_parser(
        "import",
        help="copy a profile or a ranking in a file into the cache",
        description="Copy an exported profile, a JSON object {layer: score} or a JSON list of "
        "layers, worst first, into the cache, under the layer names of a network whose profile "
        "the cache has; the table of names is shown. Scores and lists are kept as rankings, which "
        "have no cosines: a severity does not apply to them.",
    )
    import_.add_argument("file", metavar="FILE")
    import_.add_argument(
        "--like",
        metavar="ID",
        help="a profile of the network whose layers these are: its ID, the name of a built-in "
        "one, or the file of an exported one (default: of the one network in the cache that they "
        "fit)",
    )
    profiles.add_matching(import_, "the network lacks")
    import_.set_defaults(handle=_import)

    remove = actions.add_parser("remove", help="delete a profile")
    remove.add_argument("id", metavar="ID")
    remove.set_defaults(handle=_remove)

    profiles.add_actions(actions)


def _list(_: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.consoles import make_console
    from libmtl_recon.profiles.cache import ProfileCache, built_in_entries
    from libmtl_recon.profiles.recovery import recover_all

    cache = ProfileCache()
    for left in recover_all(cache):
        say(f"libmtl-recon: {left}", error=True)
    entries, rankings = cache.list(), cache.rankings()
    shown = [*entries, *built_in_entries()]
    if not entries and not rankings:
        say(f"No conflict profiles in {cache.folder}. Create one with `libmtl-recon score SCRIPT`.")
        if not shown:
            return 0
    console = make_console()
    headings = ("id", "data set", "encoder", "layers", "tasks", "weighting", "steps", "date")
    table = make_table(console, *headings, right=("layers", "steps"))
    for entry in shown:
        profile, where = entry.profile, entry.profile.provenance
        table.add_row(
            f"{entry.id} (built in)" if entry.built_in else entry.id,
            *(str(where.get("dataset", "")), str(where.get("encoder", ""))),
            *(str(len(profile.architecture)), ", ".join(profile.tasks)),
            *(str(where.get("weighting", "")), str(profile.steps), str(where.get("date", ""))[:10]),
        )
    show_table(console, table)
    if rankings:
        say("Imported rankings:")
        table = make_table(console, "id", "file", "layers", "date", right=("layers",))
        for ranked in rankings:
            where = ranked.ranking.provenance
            file, date = str(where.get("imported", "")), str(where.get("date", ""))[:10]
            table.add_row(ranked.id, file, str(len(ranked.ranking.names)), date)
        show_table(console, table)
    return 0


def _show(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import print_ranking, say
    from libmtl_recon.conflicts.grid import check_severity
    from libmtl_recon.conflicts.profile import check_split_count
    from libmtl_recon.conflicts.report import report_on
    from libmtl_recon.conflicts.schedule import UntilStable
    from libmtl_recon.errors import ReconError
    from libmtl_recon.profiles.cache import Entry, ProfileCache, RankingEntry

    check_severity("--s", options.s)

    cache = ProfileCache()
    entries: list[Entry | RankingEntry] = []
    entries += cache.list() if options.id is None else [cache.load_any(options.id)]
    if not entries:
        raise ReconError(
            f"There is no conflict profile in {cache.folder} to show. Create one with "
            "`libmtl-recon score SCRIPT`."
        )
    entry = entries[0]
    if isinstance(entry, RankingEntry):
        return _show_ranking(entry, options)
    if options.k is not None:
        check_split_count("--k", options.k, len(entry.profile.architecture))
    if options.plot is not None:
        from libmtl_recon.conflicts.plot import draw_profile
        from libmtl_recon.pictures import check_picture

        check_picture("--plot", options.plot)
        draw_profile(entry.profile, options.plot, options.s, options.k)
    asked = UntilStable.usual(options.s, options.k)
    report = report_on(entry.profile, options.s, options.k, asked)
    tasks = bounded(", ".join(entry.profile.tasks), _LONGEST)
    say(f"{entry.what} {entry.id}: {entry.profile.steps} steps, tasks {tasks}")
    for key, value in entry.profile.provenance.items():
        _show_origin(key, value)
    print_ranking(report, options.k)
    say(report.sentence)
    if options.plot:
        say(f"Drawn in {options.plot}.")
    return 0


def _show_ranking(entry: RankingEntry, options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.conflicts.profile import check_count
    from libmtl_recon.consoles import make_console
    from libmtl_recon.errors import UsageError

    ranking = entry.ranking
    if options.plot is not None:
        raise UsageError(
            "--plot",
            "must be given for a profile, which counts cosines",
            options.plot,
            f"{entry.id} is a ranking that was imported. Leave --plot out.",
        )
    K = len(ranking.names) if options.k is None else options.k
    check_count("--k", K, len(ranking.names))
    say(f"ranking {entry.id}: {len(ranking.names)} of {len(ranking.architecture)} layers")
    for key, value in ranking.provenance.items():
        _show_origin(key, value)
    console = make_console()
    known = {layer.name: layer for layer in ranking.architecture}
    numbers = ("rank", "parameters", "score")
    table = make_table(console, "rank", "layer", "type", "parameters", "score", right=numbers)
    for rank, name in enumerate(ranking.names[:K], start=1):
        layer = known[name]
        score = "" if ranking.scores is None else f"{ranking.scores[rank - 1]:g}"
        table.add_row(str(rank), name, layer.type, f"{layer.parameters:,}", score)
    show_table(console, table)
    if len(ranking.names) > K:
        say(f"and {len(ranking.names) - K} more")
    return 0


def _show_origin(key: str, value: Any) -> None:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.profiles.sources import origin

    if key == "added" and isinstance(value, list):
        for number, source in enumerate(value[:_MOST_ADDED], start=1):
            shown = origin(source) if isinstance(source, dict) else str(source)
            say(f"  {key} {number}: {bounded(shown, _LONGEST)}")
        if len(value) > _MOST_ADDED:
            say(f"  and {len(value) - _MOST_ADDED} more")
        return
    shown = " ".join(map(str, value)) if isinstance(value, list) else value
    if isinstance(value, dict):
        shown = ", ".join(f"{name} {what}" for name, what in value.items())
    say(bounded(f"  {key}: {shown}", _LONGEST))


def _export(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.profiles.cache import ProfileCache

    entry = ProfileCache().export(options.id, options.file)
    say(f"Wrote {entry.what} {entry.id} to {options.file}.")
    return 0


def _import(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import print_matching, say
    from libmtl_recon.errors import naming
    from libmtl_recon.profiles.cache import ProfileCache
    from libmtl_recon.profiles.importing import import_layers
    from libmtl_recon.texts import shorten

    names = {"match": "--match", "skip_missing": "--skip-missing", "like": "--like"}
    with naming(**names, source="FILE", file="FILE"):
        found = import_layers(
            ProfileCache(), options.file, options.like, options.match, options.skip_missing
        )
    matching = found.matching
    if matching is not None:
        print_matching(matching, found.layers)
        if matching.missing:
            say(f"Left out, since the network lacks them: {shorten(matching.missing)}.")
    network = f", with the layers of {found.like}" if found.like else ""
    say(f"Kept as {found.what} {found.id}{network}.")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.profiles.cache import ProfileCache

    entry = ProfileCache().remove(options.id)
    say(f"Removed {entry.what} {entry.id}.")
    return 0
