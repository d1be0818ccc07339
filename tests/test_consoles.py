"""How wide tables are where there is no terminal."""

from __future__ import annotations

import pytest
from rich.table import Table

from libmtl_recon.consoles import frame_for, make_console


@pytest.mark.parametrize(
    ("columns", "fitting", "width", "breaks_lines"),
    [("44", True, 44, True), ("44", False, 500, True), ("", True, 500, False)],
)
def test_columns_counts_for_what_fits_itself(
    monkeypatch: pytest.MonkeyPatch, columns: str, fitting: bool, width: int, breaks_lines: bool
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    console = make_console(fitting=fitting)
    assert (console.width, console.soft_wrap) == (width, not breaks_lines)


def test_names_are_no_markup_and_tables_have_no_frame(capsys: pytest.CaptureFixture[str]) -> None:
    console = make_console()
    table = Table(**frame_for(console))
    table.add_column("[b]head[/b]")
    table.add_row(":smile: [red]x[/]")
    console.print(table)
    assert capsys.readouterr().out.split("\n") == ["[b]head[/b]      ", ":smile: [red]x[/]", ""]
