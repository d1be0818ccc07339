"""Print tables and lines, for several commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.console import Console
from rich.table import Table

from libmtl_recon.consoles import frame_for, make_console
from libmtl_recon.output import write
from libmtl_recon.texts import bounded, printable

if TYPE_CHECKING:
    from libmtl_recon.conflicts.layers import Layer
    from libmtl_recon.conflicts.report import ProfileReport
    from libmtl_recon.profiles.layer_names import Matching

_MOST_ROWS = 1000
_LONGEST_CELL = 500  # characters


def say(text: str, *, error: bool = False) -> None:
    """Print a line: to stdout, or to stderr.

    Names in it may come from outside: control characters, and characters that the stream's
    encoding lacks, are escaped.
    """
    _write(printable(text, keep="\n"), sys.stderr if error else sys.stdout)


def show_table(console: Console, table: Table) -> None:
    """Print a table, to stdout."""
    with console.capture() as captured:
        console.print(table)
    _write(captured.get().removesuffix("\n"), sys.stdout)


class NameTable(Table):
    """A table whose cells are shown literally: markup in them has no effect."""

    def add_row(self, *cells: Any, **kwargs: Any) -> None:
        """Add a row; see :func:`say`."""
        super().add_row(*(bounded(printable(str(cell)), _LONGEST_CELL) for cell in cells), **kwargs)


def _write(text: str, stream: TextIO) -> None:
    write(f"{text}\n", stream)
    stream.flush()


def make_table(console: Console, *headings: str, right: tuple[str, ...] = ()) -> NameTable:
    """Return an empty table: framed on a terminal, plain columns elsewhere.

    Args:
        console: Where it will be printed.
        *headings: Of the columns.
        right: The headings of right-aligned columns.
    """
    plain = not console.is_terminal
    table = NameTable(**frame_for(console))
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        title = bounded(printable(heading), _LONGEST_CELL)
        table.add_column(title, justify=justify, no_wrap=plain)
    return table


def print_ranking(report: ProfileReport, top: int | None = None) -> None:
    """Print a profile's layers, worst first.

    Args:
        report: On the profile.
        top: The number of layers; None prints all, up to a thousand.
    """
    top = _MOST_ROWS if top is None else top
    undefined = report.any_undefined
    console = make_console()
    numbers = ("rank", "parameters", "score", "share", "undefined")
    headings = ("rank", "layer", "type", "parameters", "score", "share")
    table = make_table(console, *headings, *(["undefined"] if undefined else []), right=numbers)
    for rank, row in enumerate(report.layers[:top], start=1):
        layer = row.layer
        cells = [str(rank), layer.title, layer.type, f"{layer.parameters:,}"]
        cells += [str(row.score), f"{row.share:.1%}"]
        table.add_row(*cells, *([str(row.undefined)] if undefined else []))
    of = "; shares are relative to those in which both tasks had a gradient" if undefined else ""
    counted = f"{report.counted} steps and pairs of tasks"
    say(f"Layers by conflict score at S = {report.S:g} (of {counted}{of}):")
    show_table(console, table)
    if top < len(report.layers):
        say(f"and {len(report.layers) - top} more")


def print_matching(matching: Matching, layers: Sequence[Layer] = ()) -> None:
    """Print which layer each name of a source is; nothing where all names are the network's.

    Args:
        matching: Of the source's names with the network's.
        layers: The network's, whose types and sizes are shown.
    """
    if not matching.renamed:
        return
    known = {layer.name: layer for layer in layers}
    console = make_console()
    more = ("type", "parameters") if known else ()
    table = make_table(console, "name there", "name here", *more, right=("parameters",))
    pairs = list(matching.pairs.items())
    for theirs, ours in pairs[:_MOST_ROWS]:
        layer = known.get(ours)
        cells = (layer.type, f"{layer.parameters:,}") if layer is not None else ()
        table.add_row(theirs, ours, *cells)
    how = "by position" if matching.by_order else "by name, without wrappers"
    say(f"{len(pairs)} layers, matched {how}:")
    show_table(console, table)
    if len(pairs) > _MOST_ROWS:
        say(f"and {len(pairs) - _MOST_ROWS} more")
