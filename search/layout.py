"""Tables of a report for the console and Markdown, transposed if they are too wide."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from libmtl_recon.consoles import frame_for
from libmtl_recon.texts import Cells, markdown, printable

_WIDEST = 8  # columns of a table in Markdown, which does not wrap


def fitting_table(headings: Sequence[str], rows: Cells, console: Console) -> Table:
    """Return a table, transposed if it is too wide for the console.

    Args:
        headings: The headings of the columns; the first is that of the rows' names.
        rows: The rows: a name, and numbers.
        console: The console on which it will be printed.
    """
    table = make_table(headings, rows, console)
    anywhere = console.options.update(max_width=10**6)
    if Measurement.get(console, anywhere, table).maximum <= console.width:
        return table
    return make_table(*upright(headings, rows), console)


def upright(headings: Sequence[str], rows: Cells) -> tuple[list[str], list[list[str]]]:
    """Transpose a table: return the new headings, and the new rows."""
    first, *others = zip(headings, *rows, strict=True)
    return list(first), [list(other) for other in others]


def make_table(
    headings: Sequence[str], rows: Cells, console: Console, left: Sequence[int] = (0,)
) -> Table:
    """Return a table, framed on a terminal, with plain columns elsewhere.

    Args:
        headings: The headings of the columns.
        rows: The cells as they are shown, without markup.
        console: The console on which it will be printed.
        left: The columns of text, which are left-aligned, and wrapped if necessary.
    """
    table = Table(**frame_for(console))
    for place, heading in enumerate(headings):
        text = place in left
        numbers = [len(row[place]) for row in rows]
        table.add_column(
            Text(printable(heading)),
            justify="left" if text else "right",
            no_wrap=console.soft_wrap,
            overflow="fold",
            # Numbers are never truncated or wrapped.
            min_width=None if text else max(numbers, default=0),
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def fitting_markdown(headings: Sequence[str], rows: Cells) -> list[str]:
    """Return a table's lines in Markdown, transposed if it has many columns."""
    if len(headings) > _WIDEST:
        headings, rows = upright(headings, rows)
    return markdown(headings, rows)
