"""Δm against the paper's formula, and what is said where it does not exist."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import ReconError
from search import relative_improvement

POSITIVE = st.floats(0.01, 100)


def paper(M: list[list[float]], S: list[list[float]], lower: list[list[int]]) -> float:
    """Section 5.1 of the Recon paper, sign for sign; ``lower`` is l."""
    T = len(M)
    delta = 0.0
    for j in range(T):
        K = len(M[j])
        delta_j = 0.0
        for i in range(K):
            delta_j += (-1) ** lower[j][i] * (M[j][i] - S[j][i]) / S[j][i]
        delta += delta_j / K
    return 100 * delta / T


@given(st.lists(st.lists(st.tuples(POSITIVE, POSITIVE, st.booleans()), min_size=1), min_size=1))
def test_it_is_the_papers_formula(tasks: list[list[tuple[float, float, bool]]]) -> None:
    def named(position: int) -> dict[str, dict[str, float]]:
        return {
            f"t{t}": {f"m{m}": values[position] for m, values in enumerate(metrics)}
            for t, metrics in enumerate(tasks)
        }

    higher = {
        f"t{t}": {f"m{m}": values[2] for m, values in enumerate(metrics)}
        for t, metrics in enumerate(tasks)
    }
    M, S = ([[values[p] for values in metrics] for metrics in tasks] for p in (0, 1))
    lower = [[0 if values[2] else 1 for values in metrics] for metrics in tasks]
    found = relative_improvement(named(0), named(1), higher)
    assert math.isclose(found, paper(M, S, lower), rel_tol=1e-9, abs_tol=1e-9)


def test_the_papers_table_is_reproduced() -> None:
    # Multi-Fashion+MNIST, table 1: single-task 98.37 and 89.63; a task's mean comes first.
    higher = {"a": {"x": True, "y": False}, "b": {"z": True}}
    base = {"a": {"x": 0.5, "y": 2.0}, "b": {"z": 0.8}}
    better = {"a": {"x": 0.6, "y": 1.0}, "b": {"z": 0.8}}
    # (+20 % + 50 %) / 2 for a, 0 for b.
    assert relative_improvement(better, base, higher) == pytest.approx(17.5)


def test_a_negative_metric_counts_in_its_own_direction() -> None:
    higher = {"t": {"R2": True}}
    assert relative_improvement({"t": {"R2": -0.5}}, {"t": {"R2": -1.0}}, higher) == 50.0
    assert relative_improvement({"t": {"R2": -1.5}}, {"t": {"R2": -1.0}}, higher) == -50.0


@pytest.mark.parametrize(
    ("value", "base", "words"),
    [
        (math.nan, 1.0, ("is nan", "--lr")),
        (math.inf, 1.0, ("is inf",)),
        (1.0, math.nan, ("is nan for the network trained on that task alone",)),
        (1.0, 0.0, ("is 0 for the network trained on that task alone", "Train longer")),
        (1.0, -0.0, ("is 0 for the network",)),
        (None, 1.0, ("was not measured",)),
    ],
)
def test_what_cannot_be_compared_is_named(
    value: float | None, base: float, words: tuple[str, ...]
) -> None:
    metrics = {"seg": {} if value is None else {"IoU": value}}
    with pytest.raises(ReconError) as caught:
        relative_improvement(metrics, {"seg": {"IoU": base}}, {"seg": {"IoU": True}})
    assert "'IoU'" in str(caught.value)
    assert "'seg'" in str(caught.value)
    assert caught.value.exit_status == 1
    for word in words:
        assert word in str(caught.value)


def test_a_task_without_metrics_is_named() -> None:
    with pytest.raises(ReconError, match="'seg' has no metric"):
        relative_improvement({"seg": {}}, {"seg": {}}, {"seg": {}})
