"""Train every weighting with every architecture of the installed LibMTL, and tabulate the results.

python -m benchmarks.compatibility --out DIR [--docs docs] [--tasks 2 3] [--weighting EW ...]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.compatibility.cells import TASKS, Cell, all_cells, run_cell
from benchmarks.compatibility.record import Notebook, dump, label, to_record
from benchmarks.compatibility.table import render, write_documents

_STOPPED = 130  # the exit status that shells report after Ctrl-C


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compatibility", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="store the results in this folder; the same command resumes where it was stopped",
    )
    parser.add_argument(
        "--docs",
        type=Path,
        metavar="DIR",
        help="also write the table to compatibility.md in this folder; requires the whole matrix",
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS, help="numbers of tasks")
    parser.add_argument("--weighting", nargs="+", help="only these weightings")
    parser.add_argument("--arch", nargs="+", help="only these architectures")
    return parser


def main() -> int:
    """Train the cells that the arguments select, and return 1 if any fails, otherwise 0."""
    parser = make_parser()
    given = parser.parse_args()
    cells = [
        cell
        for cell in all_cells(tuple(given.tasks))
        if (not given.weighting or cell.weighting in given.weighting)
        and (not given.arch or cell.arch in given.arch)
    ]
    if given.docs and len(cells) < len(list(all_cells())):
        parser.error("--docs requires the whole matrix: leave out --tasks, --weighting and --arch.")
    given.out.mkdir(parents=True, exist_ok=True)
    console = Console()
    notebook = Notebook(given.out / "cells.jsonl")
    if notebook.begun_anew:
        console.print("The code has changed since these results: all cells are trained again.")
    try:
        _train([cell for cell in cells if cell not in notebook.found], notebook, console)
    except KeyboardInterrupt:
        kept = sum(cell in notebook.found for cell in cells)
        console.print(f"{kept} of {len(cells)} cells are done; run the same command to resume.")
        return _STOPPED
    record = to_record({cell: notebook.found[cell] for cell in cells})
    table = given.out / f"compatibility-{label()}.md"
    table.write_text(render(record), encoding="utf-8")
    table.with_suffix(".json").write_text(dump(record), encoding="utf-8")
    if given.docs:
        write_documents(record, label(), given.docs)
    count = Counter(notebook.found[cell].kind for cell in cells)
    console.print(f"{dict(count)}: {table}")
    for cell in cells:
        if notebook.found[cell].kind == "fails":
            console.print(f"{cell}: {notebook.found[cell].reason}", style="red", markup=False)
    return int(count["fails"] > 0)


def _train(cells: list[Cell], notebook: Notebook, console: Console) -> None:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as progress:
        bar = progress.add_task("", total=len(cells))
        for cell in cells:
            progress.update(bar, description=str(cell))
            notebook.write(cell, run_cell(cell))
            progress.advance(bar)


if __name__ == "__main__":
    sys.exit(main())
