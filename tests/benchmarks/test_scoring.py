"""The benchmark of scoring, on a network as small as can be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_line_for_each_number_of_tasks(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scoring

    monkeypatch.delitem(sys.modules, "scoring")
    flags = "--network tiny --tasks 2 --weightings EW --rounds 1 --batch 4 --size 8 --device cpu"
    scoring.main(flags.split())
    out = capfd.readouterr().out.splitlines()
    cells = [cell.strip() for cell in out[-1].strip("|").split("|")]
    assert cells[:2] == ["EW", "2"]
    bare, scored, shown = float(cells[2]), float(cells[3]), float(cells[4].split("**")[1])
    # The times are rounded to milliseconds.
    assert (scored - 0.5) / (bare + 0.5) - 0.005 <= shown <= (scored + 0.5) / (bare - 0.5) + 0.005
