"""Tables of a report: as wide as there is room, else upright; in Markdown, too."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from libmtl_recon.consoles import frame_for
from libmtl_recon.texts import printable

_WIDEST = 8  # columns of a table in Markdown, which wraps nothing

Cells = Sequence[Sequence[str]]


def fitting_table(headings: Sequence[str], rows: Cells, console: Console) -> Table:
    """A table whose rows stand side by side where they are too wide for the console.

    Args:
        headings: Of the columns; the first is that of the rows' names.
        rows: Their names, and numbers.
        console: Where it will be printed.
    """
    table = make_table(headings, rows, console)
    anywhere = console.options.update(max_width=10**6)
    if Measurement.get(console, anywhere, table).maximum <= console.width:
        return table
    return make_table(*upright(headings, rows), console)


def upright(headings: Sequence[str], rows: Cells) -> tuple[list[str], list[list[str]]]:
    """Rows as columns: the new headings, and the new rows."""
    first, *others = zip(headings, *rows, strict=True)
    return list(first), [list(other) for other in others]


def make_table(
    headings: Sequence[str], rows: Cells, console: Console, left: Sequence[int] = (0,)
) -> Table:
    """A table: framed on a terminal, plain columns elsewhere.

    Args:
        headings: Of the columns.
        rows: As they are shown: nothing in them is markup.
        console: Where it will be printed.
        left: The columns of texts, which are aligned at the left, and wrap where they must.
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
            # Numbers are never cut or wrapped, whatever else must be.
            min_width=None if text else max(numbers, default=0),
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def markdown(headings: Sequence[str], rows: Cells, left: Sequence[int] = (0,)) -> list[str]:
    """A table's lines in Markdown."""
    rule = "|".join("---" if place in left else "---:" for place in range(len(headings)))
    return [_line(headings), f"|{rule}|", *map(_line, rows)]


def fitting_markdown(headings: Sequence[str], rows: Cells) -> list[str]:
    """A table's lines in Markdown; upright if it has many columns."""
    if len(headings) > _WIDEST:
        headings, rows = upright(headings, rows)
    return markdown(headings, rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"
