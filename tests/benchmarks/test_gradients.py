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
    assert all(float(cell.strip("*")) > 0 for cell in cells[2:7])


def test_a_line_has_the_medians_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    import gradients
    from gradients_worker import Memory, Setting, Took

    # A step's seconds and those of the weighting in it; the first round is for warming up.
    took = {
        "libmtl": [(9.0, 9.0), (0.6, 0.5), (0.8, 0.7), (0.7, 0.6)],
        "ours": [(9.0, 9.0), (0.2, 0.12), (0.4, 0.3), (0.25, 0.18)],
        "bare": [(9.0, 9.0), (0.15, 0.1), (0.3, 0.2), (0.2, 0.15)],
    }
    peaks = {"libmtl": 700, "ours": 200, "bare": 100}

    class Worker:
        def __init__(self, way: str, _: Setting) -> None:
            self.way, self.steps = way, iter(took[way])

        def step(self) -> Took:
            return Took(*next(self.steps))

        def end(self) -> Memory:
            return Memory(peaks[self.way], 200)

    monkeypatch.setattr(gradients, "Worker", Worker)
    setting = Setting("PCGrad", 3, False, "tiny", 4, 32, "cpu", steps=4)
    assert gradients.measure(setting) == [
        *("PCGrad", "3", "700", "250", "**2.80**", "150", "1.20 (1.20–1.50)", "3.00", "0.50")
    ]


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
