"""The benchmark of per-task gradients runs, on a tiny network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gradients.py"


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_line_of_the_table_compares_three_ways() -> None:
    shown = run(
        *("--network", "tiny", "--device", "cpu", "--tasks", "3", "--weightings", "PCGrad"),
        *("--rounds", "1", "--batch", "4"),
    )
    *_, head, rule, line = (row for row in shown.splitlines() if row.startswith("|"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == head.count("|") - 1 == rule.count("|") - 1
    assert cells[:2] == ["PCGrad", "3"]
    libmtl, ours, ratio, bare, over_bare = (float(cell.strip("*")) for cell in cells[2:7])
    # The times are rounded to milliseconds, the ratios to hundredths.
    assert ratio == pytest.approx(libmtl / ours, abs=0.005 + _by_rounding(libmtl, ours))
    assert over_bare == pytest.approx(ours / bare, abs=0.005 + _by_rounding(ours, bare))


def _by_rounding(above: float, below: float) -> float:
    return (above + 0.5) / (below - 0.5) - above / below


def test_the_help_says_what_is_measured() -> None:
    shown = run("--help")
    for word in (
        "--tasks",
        "--weightings",
        "--rounds",
        "--device",
        "bare backward passes",
        "[T, d]",
    ):
        assert word in shown
