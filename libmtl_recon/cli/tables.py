"""What more than one command prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from libmtl_recon.output import write
from libmtl_recon.texts import bounded, printable

if TYPE_CHECKING:
    from libmtl_recon.conflicts.profile import ConflictProfile

# Where there is no terminal a table is as wide as it needs to be, for files and pipes.
_NO_TERMINAL_WIDTH = 500
_MOST_ROWS = 1000
_LONGEST_CELL = 500  # characters


def say(text: str, *, error: bool = False) -> None:
    """Print a line: to stdout, or to stderr.

    Names in it may come from outside. What a terminal would obey, and what the stream's encoding
    does not have, is escaped.
    """
    _write(printable(text, keep="\n"), sys.stderr if error else sys.stdout)


def show_table(console: Console, table: Table) -> None:
    """Print a table, to stdout."""
    with console.capture() as captured:
        console.print(table)
    _write(captured.get().removesuffix("\n"), sys.stdout)


class NameTable(Table):
    """A table whose cells are names, shown as they are: markup in them means nothing."""

    def add_row(self, *cells: Any, **kwargs: Any) -> None:
        """Add a row; see :func:`say`."""
        super().add_row(*(bounded(printable(str(cell)), _LONGEST_CELL) for cell in cells), **kwargs)


def _write(text: str, stream: TextIO) -> None:
    write(f"{text}\n", stream)
    stream.flush()


def make_table(console: Console, *headings: str, right: tuple[str, ...] = ()) -> NameTable:
    """An empty table: framed on a terminal, plain columns elsewhere.

    Args:
        console: Where it will be printed.
        *headings: Of the columns.
        right: Those whose columns are aligned at the right.
    """
    plain = not console.is_terminal
    table = NameTable(box=None if plain else box.SIMPLE_HEAD, pad_edge=not plain)
    for heading in headings:
        justify: Literal["left", "right"] = "right" if heading in right else "left"
        title = bounded(printable(heading), _LONGEST_CELL)
        table.add_column(title, justify=justify, no_wrap=plain)
    return table


def print_ranking(profile: ConflictProfile, S: float, top: int | None = None) -> None:
    """Print a profile's layers, worst first.

    Args:
        profile: Whose.
        S: The severity.
        top: How many; None prints all, up to a thousand.
    """
    top = _MOST_ROWS if top is None else top
    scores = profile.scores(S)
    counted = profile.steps * profile.pairs
    undefined = profile.undefined.sum(axis=0).tolist()
    missing = dict(zip(profile.layer_names, undefined, strict=True))
    layers = {layer.name: layer for layer in profile.architecture}
    console = make_console()
    numbers = ("rank", "parameters", "score", "share", "undefined")
    headings = ("rank", "layer", "type", "parameters", "score", "share")
    table = make_table(
        console, *headings, *(["undefined"] if any(undefined) else []), right=numbers
    )
    for rank, name in enumerate(profile.ranking(S)[:top], start=1):
        layer = layers[name]
        defined = counted - missing[name]
        share = scores[name] / defined if defined else 0.0
        cells = [str(rank), layer.title, layer.type, f"{layer.parameters:,}"]
        cells += [str(scores[name]), f"{share:.1%}"]
        table.add_row(*cells, *([str(missing[name])] if any(undefined) else []))
    of = "; shares are of those in which both had a gradient" if any(undefined) else ""
    say(f"Layers by conflict score at S = {S:g} (of {counted} steps and pairs of tasks{of}):")
    show_table(console, table)
    if top < len(layers):
        say(f"and {len(layers) - top} more")


def make_console() -> Console:
    """A console for tables: as wide as the terminal, and wide enough where there is none."""
    width = None if Console().is_terminal else _NO_TERMINAL_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)
