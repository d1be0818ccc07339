"""What a search shows at its end, on narrow terminals and with names that nobody chose for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import libmtl_recon_search.run
import pytest
from fake_runs import Asked, Curves, FakeRunner, write_search
from hypothesis import given
from hypothesis import strategies as st
from libmtl_recon_search import load_config, run_search
from libmtl_recon_search.judge import Outcome
from libmtl_recon_search.plan import Plan
from libmtl_recon_search.report import Finalist, Report, Row, Spread, command_line
from libmtl_recon_search.trials import TrialLine, in_words, short_reason

BEST = Plan("GradOPS", -0.5, -0.1, tuple(f"layer{i}.conv" for i in range(12)))
FAILED = (
    "The run `main.py --weighting MGDA` failed with exit status 1. Its error: no such data. "
    "Its log is /runs/plan-1.log."
)
LINES = (
    TrialLine(None, "EW, HPS (a baseline)", None, "baseline", again=(1, 2, 11, 12, 13)),
    TrialLine(0, BEST.title, 2.345, "finished", again=(5,)),
    TrialLine(3, "UW, Recon S=-0.05 K=3", None, "ended early"),
    TrialLine(4, "MGDA, HPS", None, "failed", FAILED),
    TrialLine(6, "EW, Recon S=-0.1 K=6", -1.2, "finished"),
)


def report_of(tasks: list[str], names: list[str]) -> Report:
    def metrics(level: float) -> dict[str, dict[str, float]]:
        return {task: {n: level + 0.01 * i for i, n in enumerate(names)} for task in tasks}

    spread = Spread.of([1.0, 2.0, 3.0])
    return Report(
        rows=(
            Row("single-task", metrics(0.8), None, None, 12_345_678),
            Row("EW, plain sharing", metrics(0.7), spread, spread, 4_345_678),
            Row(f"best: {BEST.title}", metrics(0.9), spread, spread, 5_345_678),
        ),
        best=BEST,
        finalists=(Finalist(BEST, spread),),
        gain=spread,
        seeds=(1, 2, 3),
        on="val",
        reached=Outcome(3.2, 1.1, metrics(0.9), 5_345_678, 7),
        command=command_line("main.py", ["--weighting", "GradOPS"], 1),
        pictures=(),
        trials=5,
        failed=1,
        lines=LINES,
    )


def shown(
    report: Report,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    terminal: bool = True,
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    report.print()
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        (["left", "mid", "right"], ["Acc"]),
        (["segmentation", "depth", "normal"], ["mIoU", "pixAcc", "absErr"]),
        ([f"a_task_whose_name_is_longer_than_half_a_terminal_{i}" for i in range(3)], ["Acc"]),
        ([f"task{i}" for i in range(40)], ["Acc"]),
    ],
    ids=["3 metrics", "9 metrics", "long names", "40 tasks"],
)
def test_the_table_has_room_for_every_number(
    tasks: list[str],
    names: list[str],
    columns: int,
    terminal: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    report = report_of(tasks, names)
    lines = shown(report, columns, monkeypatch, capsys, terminal)
    prose = next(i for i, line in enumerate(lines) if line.startswith("Reproduce"))
    assert [line for line in lines[:prose] if len(line.rstrip()) > columns] == []
    text = "\n".join(lines[:prose])
    for number in ("12,345,678", "4,345,678", "5,345,678"):
        assert text.count(number) == 1
    assert text.count("+2.00 ± 1.00") == 2 * 2 + 1  # two rows twice, and the verdict
    assert "…" not in text
    assert text.count("0.8000") == len(tasks)
    # Words stay whole where their column could be wide enough.
    if len(tasks[0]) < 20:
        assert [text.count(f"{task} ") >= 1 for task in tasks] == [True] * len(tasks)


def test_names_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    tasks = ["mnist[v2]", "[/x]", "[red]a[/red]", ":smile:", "a|b", "\x1b[31m"]
    report = report_of(tasks, ["Acc"])
    text = "\n".join(shown(report, 200, monkeypatch, capsys))
    for task in (*tasks[:5], "\\x1b[31m"):
        assert f"{task} Acc" in text
    monkeypatch.delenv("FORCE_COLOR")
    report.print()
    text = capsys.readouterr().out
    for task in (*tasks[:5], "\\x1b[31m"):
        assert f"{task} Acc" in text
    report.save(tmp_path)
    saved = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "a\\|b Acc" in saved
    assert "\x1b" not in saved


def test_trials_are_shown_with_how_they_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    report = report_of(["a"], ["Acc"])
    lines = [" ".join(line.split()) for line in shown(report, 200, monkeypatch, capsys)]
    start = next(i for i, line in enumerate(lines) if line.startswith("trial plan"))
    assert lines[start + 2 : start + 5] == [
        f"0 {BEST.title} +2.35 again: 5",
        "6 EW, Recon S=-0.1 K=6 -1.20",
        "4 MGDA, HPS – failed with exit status 1. Its error: no such data.",
    ]
    assert "1 of 5 trials failed." in lines[1]
    report.save(tmp_path)
    saved = (tmp_path / "report.md").read_text(encoding="utf-8").splitlines()
    start = saved.index("| trial | plan | Δm val % | ended |")
    assert saved[start + 2 : start + 7] == [
        "| – | EW, HPS (a baseline) | – | again: 1–2, 11–13 |",
        f"| 0 | {BEST.title} | +2.35 | again: 5 |",
        "| 3 | UW, Recon S=-0.05 K=3 | – | ended early |",
        "| 4 | MGDA, HPS | – | failed with exit status 1. Its error: no such data. |",
        "| 6 | EW, Recon S=-0.1 K=6 | -1.20 |  |",
    ]


def test_a_long_reason_is_shortened() -> None:
    said = short_reason("The run `a --b c` was killed by SIGKILL. " + "x\n[0m " * 500)
    assert said.startswith("was killed by SIGKILL. x [0m x")
    assert len(said) == 160
    assert short_reason("Metric 'Err' of task 'a' is nan. The run's log is /x/y.log.") == (
        "Metric 'Err' of task 'a' is nan."
    )


@given(st.sets(st.integers(0, 60)))
def test_numbers_are_drawn_together_and_all_there(numbers: set[int]) -> None:
    read: list[int] = []
    for part in in_words(numbers).split(", ") if numbers else []:
        first, _, last = part.partition("–")
        read += range(int(first), int(last or first) + 1)
    assert read == sorted(numbers)


def world(asked: Asked, task: str) -> Curves:
    level = 0.5 + 0.01 * asked.K if asked.alone is None else 0.5
    return [level], [level]


def test_every_number_of_the_study_is_accounted_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(libmtl_recon_search.run, "Runner", FakeRunner(world))
    monkeypatch.setattr(libmtl_recon_search.run, "_draw", lambda *_: ())
    monkeypatch.setattr(libmtl_recon_search.run, "write_page", lambda *_: [])
    space: dict[str, Any] = {"weighting": ["EW"], "s": [-0.1], "k": {"low": 0, "high": 2}}
    file = write_search(tmp_path, space=space, trials=3)
    report = run_search(load_config(file), tmp_path / "out")
    # Plain sharing is a baseline, so the space has two plans that can be trained.
    said = capsys.readouterr().err
    assert "the search ends with fewer than its 3 trials" in said
    assert "chose what was already trained" in said
    numbers = [line.number for line in report.lines if line.number is not None]
    again = [number for line in report.lines for number in line.again]
    assert sorted([*numbers, *again]) == list(range(len(numbers) + len(again)))
    assert [line.plan for line in report.lines] == [
        "EW, HPS (a baseline)",
        "EW, Recon S=-0.1 K=1",
        "EW, Recon S=-0.1 K=2",
    ]
    # After three repeats what is left is looked up: nothing.
    assert 3 <= len(again) <= 6
