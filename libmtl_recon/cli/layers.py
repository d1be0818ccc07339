"""``libmtl-recon layers``: work with the conflict profiles stored on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from libmtl_recon.cli import profiles
from libmtl_recon.cli.command import add_command
from libmtl_recon.texts import bounded

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
  libmtl-recon layers add 3f2a 90cd             the sum of two profiles
  libmtl-recon layers table 3f2a 90cd --layers  shares of cosines, per layer
  libmtl-recon layers plot 3f2a 90cd --out cosines.png

An ID may be shortened to its first characters.
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

    import_ = actions.add_parser("import", help="copy the profile in a file into the cache")
    import_.add_argument("file", metavar="FILE")
    import_.set_defaults(handle=_import)

    remove = actions.add_parser("remove", help="delete a profile")
    remove.add_argument("id", metavar="ID")
    remove.set_defaults(handle=_remove)

    profiles.add_actions(actions)


def _list(_: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import make_table, say, show_table
    from libmtl_recon.consoles import make_console
    from libmtl_recon.profiles.cache import ProfileCache
    from libmtl_recon.profiles.recovery import recover_all

    cache = ProfileCache()
    for left in recover_all(cache):
        say(f"libmtl-recon: {left}", error=True)
    entries = cache.list()
    if not entries:
        say(f"No conflict profiles in {cache.folder}. Create one with `libmtl-recon score SCRIPT`.")
        return 0
    console = make_console()
    headings = ("id", "data set", "encoder", "layers", "tasks", "weighting", "steps", "date")
    table = make_table(console, *headings, right=("layers", "steps"))
    for entry in entries:
        profile, where = entry.profile, entry.profile.provenance
        table.add_row(
            *(entry.id, str(where.get("dataset", "")), str(where.get("encoder", ""))),
            *(str(len(profile.architecture)), ", ".join(profile.tasks)),
            *(str(where.get("weighting", "")), str(profile.steps), str(where.get("date", ""))[:10]),
        )
    show_table(console, table)
    return 0


def _show(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import print_ranking, say
    from libmtl_recon.conflicts.grid import check_severity
    from libmtl_recon.conflicts.profile import check_split_count
    from libmtl_recon.conflicts.report import report_on
    from libmtl_recon.conflicts.schedule import UntilStable
    from libmtl_recon.errors import ReconError
    from libmtl_recon.profiles.cache import ProfileCache

    check_severity("--s", options.s)

    cache = ProfileCache()
    entries = cache.list() if options.id is None else [cache.load(options.id)]
    if not entries:
        raise ReconError(
            f"There is no conflict profile in {cache.folder} to show. Create one with "
            "`libmtl-recon score SCRIPT`."
        )
    entry = entries[0]
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
    say(f"profile {entry.id}: {entry.profile.steps} steps, tasks {tasks}")
    for key, value in entry.profile.provenance.items():
        _show_origin(key, value)
    print_ranking(report, options.k)
    say(report.sentence)
    if options.plot:
        say(f"Drawn in {options.plot}.")
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
    say(f"Wrote profile {entry.id} to {options.file}.")
    return 0


def _import(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.profiles.cache import ProfileCache

    say(f"Kept as profile {ProfileCache().import_(options.file)}.")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from libmtl_recon.cli.tables import say
    from libmtl_recon.profiles.cache import ProfileCache

    say(f"Removed profile {ProfileCache().remove(options.id).id}.")
    return 0
