"""The results of the matrix are written and read without changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.compatibility import record as records
from benchmarks.compatibility.cells import Cell, Verdict
from benchmarks.compatibility.record import Notebook, dump, from_record, plain, to_record
from benchmarks.compatibility.table import _flags, put_section, render

REFUSED = Verdict("refused", "--rep_grad cannot go with --weighting EW (got True). Drop it.")
FOUND = {
    Cell("EW", "HPS", 2): Verdict("trains", checked=True),
    Cell("EW", "HPS", 2, multi_input=True): Verdict("trains", checked=True),
    Cell("EW", "HPS", 2, rep_grad=True): REFUSED,
    Cell("EW", "HPS", 2, True, True): REFUSED,
    Cell("Own", "HPS", 2): Verdict("trains"),
    Cell("Own", "HPS", 2, multi_input=True): Verdict("trains"),
    Cell("Own", "HPS", 2, rep_grad=True): Verdict("trains"),
    Cell("Own", "HPS", 2, True, True): Verdict("fails", "ValueError: no"),
}


def test_a_record_is_read_as_it_was_written() -> None:
    wanted = {cell: plain(cell, verdict) for cell, verdict in FOUND.items()}
    assert from_record(to_record(FOUND), FOUND) == wanted
    assert from_record(to_record(FOUND), [Cell("GLS", "HPS", 2)]) == {}
    assert wanted[Cell("EW", "HPS", 2, rep_grad=True)].reason == (
        "--rep_grad cannot go with this weighting. Drop it."
    )


def test_the_text_of_a_record_has_a_row_a_line() -> None:
    lines = dump(to_record(FOUND)).splitlines()
    assert '    "EW x HPS, T=2": ["trains", "trains", 1, 1],' in lines
    assert '    "Own x HPS, T=2": ["moves", "moves", "moves", 2]' in lines


def test_the_table_says_what_was_found() -> None:
    text = render(to_record(FOUND))
    assert "| **EW** | ✓ · r ¹ |" in text
    assert "| **Own** | ○ · rm ✗² |" in text
    assert "1. `--rep_grad` cannot go with this weighting. Drop it." in text
    assert "2. **Fails.** ValueError: no" in text
    assert "Of 8 cells, 2 train as their closed form prescribes, 3 train and have no" in text
    assert "2 are refused with a reason, 1 fail." in text


def test_the_documents_are_generated_from_the_records() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "compatibility.md").read_text(encoding="utf-8")
    for name in ("pypi", "main"):
        text = (docs / "results" / f"compatibility-{name}.json").read_text(encoding="utf-8")
        record = json.loads(text)
        assert dump(record) == text
        assert put_section(page, name, render(record)) == page


def test_the_table_tells_numbers_of_tasks_apart_where_they_differ() -> None:
    more = {
        Cell("EW", "HPS", 3, cell.rep_grad, cell.multi_input): Verdict("trains", checked=True)
        for cell in list(FOUND)[:4]
    }
    assert "| **EW** | T=2: ✓ · r ¹; T=3: ✓ |" in render(to_record({**FOUND, **more}))


def test_recon_over_other_architectures_is_one_column_where_that_says_all() -> None:
    over = {
        Cell("EW", f"Recon over {base}", 2, cell.rep_grad, cell.multi_input): verdict
        for base in ("MTAN", "PLE")
        for cell, verdict in list(FOUND.items())[:4]
    }
    text = render(to_record({**dict(list(FOUND.items())[:4]), **over}))
    assert "| weighting | HPS | Recon over MTAN, PLE |" in text
    assert "| **EW** | ✓ · r ¹ | ✓ · r ¹ |" in text
    over[Cell("EW", "Recon over PLE", 2)] = Verdict("trains")
    assert "| weighting | Recon over MTAN | Recon over PLE |" in render(to_record(over))


@pytest.mark.parametrize(
    ("marks", "text"),
    [
        ("✓✓✓✓", "✓"),
        ("✓✓¹¹", "✓ · r ¹"),
        ("✓⁵✓⁵", "✓ · m ⁵"),
        ("²²✓⁵", "² · r ✓ · rm ⁵"),
        ("✓⁵¹¹", "✓ · m ⁵ · r ¹"),
        ("¹✓¹✓", "¹ · m ✓"),
        ("¹✓¹¹", "¹ · m ✓ · rm ¹"),
        ("¹✓✓¹", "¹ · m ✓ · r ✓ · rm ¹"),
    ],
)
def test_a_cell_says_no_more_than_is_needed(marks: str, text: str) -> None:
    assert _flags(tuple(marks)) == text


def test_a_section_is_written_anew_and_the_rest_stays() -> None:
    page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n"
    written = put_section(page, "x", "new")
    assert written == "a\n<!-- x: begin -->\n\nnew\n<!-- x: end -->\nb\n"
    assert put_section(written, "x", "new") == written
    with pytest.raises(ValueError, match="no lines '<!-- y: begin -->'"):
        put_section(page, "y", "new")


def test_a_notebook_goes_on_after_it_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "cells.jsonl"
    first = Notebook(file)
    for cell, verdict in FOUND.items():
        first.write(cell, verdict)
    text = file.read_text(encoding="utf-8")
    file.write_text(text[:-20], encoding="utf-8")
    again = Notebook(file)
    assert not again.begun_anew
    assert again.found == dict(list(FOUND.items())[:-1])
    last = list(FOUND)[-1]
    again.write(last, FOUND[last])
    assert Notebook(file).found == FOUND


def test_a_notebook_of_other_code_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cells.jsonl"
    Notebook(file).write(Cell("EW", "HPS", 2), REFUSED)
    monkeypatch.setattr(records, "fingerprint", lambda: "another")
    again = Notebook(file)
    assert again.begun_anew
    assert again.found == {}
