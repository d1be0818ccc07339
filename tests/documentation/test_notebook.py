"""The notebook runs, and is stored as it ran."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
nbformat = pytest.importorskip("nbformat", reason="the extra `docs`")


def read() -> Any:
    return nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_as_it_ran() -> None:
    cells = code(read())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"display_data", "execute_result"}
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2


def test_it_is_a_page() -> None:
    from notebooks import as_markdown

    page, pictures = as_markdown((EXAMPLES / "notebook.ipynb").read_text(), "files")
    assert list(pictures) == ["files/1.png", "files/2.png"]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert "![Conflicts of each layer](files/2.png)" in page
    assert page.count("```python\n") == len(code(read()))
    (table,) = (part for part in page.split("\n\n") if "<table" in part)
    assert table.rstrip().endswith("</div>")
    assert "\n\ntrial" not in page, "what a cell prints is one block"


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="the extra `docs`")
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    shutil.copytree(EXAMPLES / "search", tmp_path / "search")
    notebook = read()
    stored = [len(cell.outputs) > 0 for cell in code(notebook)]
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert [len(cell.outputs) > 0 for cell in code(notebook)] == stored
    (trials,) = (
        output.data["text/plain"]
        for cell in code(notebook)
        for output in cell.outputs
        if "<table" in output.get("data", {}).get("text/html", "")
    )
    assert trials.count("finished") + trials.count("ended early") == 6
