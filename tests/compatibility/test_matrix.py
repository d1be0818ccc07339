"""Every weighting with every architecture trains, or is refused, as the documentation says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import LibMTL
import pytest

from benchmarks.compatibility.cells import Cell, all_cells, run_cell
from benchmarks.compatibility.record import dump, from_record, plain
from benchmarks.compatibility.table import put_section, render
from libmtl_recon.integrations.libmtl.features import detect

pytestmark = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="LibMTL's main branch is tested by the script itself"
)

DOCS = Path(__file__).parents[2] / "docs"
RECORD = DOCS / "results" / "compatibility-pypi.json"
AGAIN = "Make the documentation again: python -m benchmarks.compatibility --out DIR --docs docs"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def test_the_record_has_every_cell_and_no_other(record: dict[str, Any]) -> None:
    cells = list(all_cells())
    assert sorted(from_record(record, cells), key=str) == sorted(cells, key=str), AGAIN
    assert len(record["cells"]) * 4 == len(cells), AGAIN


def test_no_cell_fails(record: dict[str, Any]) -> None:
    assert [r for r in record["reasons"].values() if r["kind"] != "refused"] == []


def test_the_documentation_is_made_from_the_record(record: dict[str, Any]) -> None:
    page = (DOCS / "compatibility.md").read_text(encoding="utf-8")
    assert page == put_section(page, "pypi", render(record)), AGAIN
    assert RECORD.read_text(encoding="utf-8") == dump(record)


# A row is trained together: one number of tasks, with all combinations of the two flags.
ROWS: dict[str, list[Cell]] = {}
for one in all_cells():
    ROWS.setdefault(f"{one.weighting} x {one.arch}, T={one.tasks}", []).append(one)


def in_short(cells: list[Cell], record: dict[str, Any]) -> list[Cell]:
    """Return the cells of a row for every run of the tests: all that are refused, and some others.

    Of those that train, with three tasks the first and the last (with as few flags as can be, and
    with most); with two and five tasks one each, of hard parameter sharing.
    """
    known = from_record(record, cells)
    trained = [cell for cell in cells if cell in known and known[cell].kind == "trains"]
    if cells[0].tasks == 3:
        left = trained[1:-1]
    elif cells[0].arch != "HPS":
        left = trained
    else:
        left = trained[1:] if cells[0].tasks == 2 else trained[:-1]
    return [cell for cell in cells if cell not in left]


def compare(cells: list[Cell], record: dict[str, Any]) -> None:
    found = {cell: plain(cell, run_cell(cell)) for cell in cells}
    assert {cell: v for cell, v in found.items() if v.kind == "fails"} == {}
    assert found == from_record(record, cells), AGAIN


@pytest.mark.parametrize("row", ROWS)
def test_what_trains_is_what_the_documentation_says(row: str, record: dict[str, Any]) -> None:
    compare(in_short(ROWS[row], record), record)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_so_is_what_the_short_run_leaves_out(row: str, record: dict[str, Any]) -> None:
    short = in_short(ROWS[row], record)
    compare([cell for cell in ROWS[row] if cell not in short], record)
