"""The study's report: paired by seed, with intervals that so few seeds allow."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import ttest_1samp

SEEDS = 3


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import census_income_report

    return census_income_report


def results(report: ModuleType, gains: dict[str, list[float]]) -> list:
    """Trainings whose AUC is EW's and so many hundredths more, in all three tasks."""
    base = [0.90, 0.80, 0.85]
    made = []
    for method, above in {"EW": [0.0] * SEEDS, **gains}.items():
        for seed in range(SEEDS):
            auc = base[seed] + above[seed] / 100
            by_task = dict.fromkeys(("income", "marital", "education"), auc)
            made.append(report.Result(method, seed, 1, by_task, by_task, 1.0))
    return made


def test_the_best_epoch_is_chosen_on_the_validation_data(report: ModuleType) -> None:
    passes = [
        {"epoch": epoch, "mode": mode, "auc": {"a": auc}}
        for epoch, aucs in enumerate([(0.5, 0.6, 0.9), (0.6, 0.7, 0.8), (0.7, 0.65, 0.85)])
        for mode, auc in zip(("train", "val", "test"), aucs, strict=True)
    ]
    found = report.Result.read({"method": "EW", "seed": 0, "seconds": 1.0, "passes": passes})
    assert (found.epoch, found.train, found.test) == (2, {"a": 0.6}, {"a": 0.8})


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3], [0.19, 0.2, 0.21], [-0.3, -0.31, -0.3]])
def test_an_interval_is_student_s(report: ModuleType, values: list[float]) -> None:
    found = report.sure(np.array(values))
    certain = ttest_1samp(values, 0.0).pvalue < 0.05
    assert found == (np.sign(values[0]) if certain else 0)


def test_the_claims_are_answered_by_seed(report: ModuleType, tmp_path: Path) -> None:
    gains = {
        "PCGrad": [0.1, 0.1, 0.1],
        "GradOPS(0)": [0.3, 0.31, 0.3],
        "GradOPS(-2)": [0.2, 0.5, 0.35],
        "GradOPS(5)": [-0.5, -0.51, -0.5],
    }
    table = report.Table(results(report, gains))
    first, second, third = report.claims(table)
    assert first.startswith("**α = 0 beats PCGrad in all tasks: true.**")
    assert "average +0.203 ± 0.003 (3 of 3 seeds above 0)" in first
    assert "average: not decided by these seeds** (1 of 1 do in the mean" in second
    assert "0 with a 95 % interval above 0)" in second
    assert "not true** (2 of 3 in the mean; with a 95 % interval above 0 1, below 0 1)" in third
    settings = {"epochs": 1, "people": {"train": 1000}}
    text = report.write_report(table.results, settings, tmp_path)
    assert "| GradOPS (α = 5) |" in text
    assert (tmp_path / "alpha.png").read_bytes().startswith(b"\x89PNG")
