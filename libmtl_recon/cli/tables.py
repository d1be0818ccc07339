"""What more than one command prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from libmtl_recon.conflict.profile import ConflictProfile

# Where there is no terminal a table is as wide as it needs to be, for files and pipes.
_NO_TERMINAL_WIDTH = 500


def say(text: str, *, error: bool = False) -> None:
    """Print a line as it is: to stdout, or to stderr."""
    stream = sys.stderr if error else sys.stdout
    stream.write(f"{text}\n")
    stream.flush()


def make_table(console: Console, *headings: str, right: tuple[str, ...] = ()) -> Table:
    """An empty table: framed on a terminal, plain columns elsewhere.

    Args:
        console: Where it will be printed.
        *headings: Of the columns.
        right: Those whose columns are aligned at the right.
    """
    plain = not console.is_terminal
    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=not plain)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=plain)
    return table


def print_ranking(profile: ConflictProfile, S: float, top: int | None = None) -> None:
    """Print a profile's layers, worst first.

    Args:
        profile: Whose.
        S: The severity.
        top: How many; None prints all.
    """
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
    console.print(table)
    if top is not None and top < len(layers):
        say(f"and {len(layers) - top} more")


def make_console() -> Console:
    """A console for tables: as wide as the terminal, and wide enough where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_NO_TERMINAL_WIDTH)
