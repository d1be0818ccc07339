"""The benchmark of scoring, on a network as small as can be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_line_for_each_number_of_tasks(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import scoring

    monkeypatch.delitem(sys.modules, "scoring")
    flags = "--network tiny --tasks 2 --weightings EW --rounds 1 --batch 4 --size 8 --device cpu"
    scoring.main(flags.split())
    head, _, line = (row for row in capfd.readouterr().out.splitlines() if row.startswith("|"))
    names, cells = ([cell.strip() for cell in row.split("|")[1:-1]] for row in (head, line))
    found = dict(zip(names, cells, strict=True))
    assert (found["weighting"], found["T"]) == ("EW", "2")
    for way in ("stored", "ours", "unscored"):
        assert float(found[f"{way} / bare"]) > 0
    # Scored, all gradients are there at once.
    assert float(found["memory stored"]) > float(found["memory unscored"])
