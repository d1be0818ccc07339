"""Tables that are printed, and written in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from libmtl_recon.errors import ReconError
from libmtl_recon.files import refusal, write_atomically
from libmtl_recon.splitting.sizes import megabytes
from libmtl_recon.texts import markdown


@dataclass(frozen=True)
class Table:
    """A table with a sentence above it.

    Attributes:
        title: The sentence, without the colon.
        headings: The headings of the columns; the first is that of the rows' names.
        rows: The cells.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def text(self) -> str:
        """The table in Markdown."""
        return "\n".join([f"{self.title}:", "", *markdown(self.headings, self.rows)])


def write_tables(file: Path, heading: str, tables: Sequence[Table], more: Sequence[str]) -> None:
    """Write tables to a Markdown file.

    Args:
        file: The file.
        heading: Its heading.
        tables: The tables.
        more: Paragraphs below them.

    Raises:
        ReconError: The file cannot be written.
    """
    parts = [f"# {heading}", *(table.text for table in tables), *more]
    try:
        write_atomically(file, "\n\n".join(parts) + "\n")
    except OSError as error:
        raise ReconError(
            f"Cannot write {file}: {refusal(error)}. Give another folder with `out`."
        ) from error


def metric_names(metrics: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str]]:
    """Return the tasks and the names of their metrics, in order."""
    return [(task, name) for task, own in metrics.items() for name in own]


def headings(metrics: Sequence[tuple[str, str]]) -> list[str]:
    """Return the headings of a table of performances."""
    return [*(f"{task} {name}" for task, name in metrics), "Δm %", "parameters", "MB"]


def size_cells(parameters: float) -> list[str]:
    """Return the cells of a number of parameters and of their MB."""
    return [f"{parameters:,.0f}", f"{megabytes(parameters):,.2f}"]


def mean_and_spread(values: Sequence[float], digits: int = 2, sign: str = "+") -> str:
    """Return the mean of values and, of several, their standard deviation, as text."""
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"
