"""Δm against the paper's formula, and what is said where it does not exist."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libmtl_recon_search import relative_improvement

from libmtl_recon import ReconError

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


FASHION = {"article": {"Acc": True}, "digit": {"Acc": True}}
CITIES = {"seg": {"mIoU": True, "pixAcc": True}, "depth": {"abs": False, "rel": False}}


@pytest.mark.parametrize(
    ("higher", "single", "found", "printed"),
    [
        # Recon paper, table 1, Multi-Fashion+MNIST.
        (FASHION, (98.37, 89.63), (98.10, 88.25), -0.91),  # RotoGrad
        (FASHION, (98.37, 89.63), (97.42, 88.82), -0.94),  # joint training
        (FASHION, (98.37, 89.63), (95.19, 89.46), -1.71),  # MGDA
        (FASHION, (98.37, 89.63), (97.37, 88.68), -1.04),  # PCGrad
        (FASHION, (98.37, 89.63), (97.47, 88.85), -0.90),  # CAGrad
        (FASHION, (98.37, 89.63), (98.30, 89.77), 0.04),  # PCGrad with Recon
        # Table 3, CityScapes; the errors have few digits there, so that Δm has fewer.
        (CITIES, (74.36, 93.22, 0.0128, 29.98), (74.05, 93.17, 0.0162, 116.66), -79.04),
        (CITIES, (74.36, 93.22, 0.0128, 29.98), (73.38, 92.97, 0.0147, 82.31), -47.81),
        (CITIES, (74.36, 93.22, 0.0128, 29.98), (74.13, 93.13, 0.0166, 116.00), -79.32),
        (CITIES, (74.36, 93.22, 0.0128, 29.98), (74.17, 93.21, 0.0136, 43.18), -12.63),
        (CITIES, (74.36, 93.22, 0.0128, 29.98), (71.01, 92.17, 0.0129, 33.41), -4.46),
        (CITIES, (74.36, 93.22, 0.0128, 29.98), (74.22, 93.10, 0.0130, 38.27), -7.38),
    ],
)
def test_the_papers_table_is_reproduced(
    higher: dict[str, dict[str, bool]],
    single: tuple[float, ...],
    found: tuple[float, ...],
    printed: float,
) -> None:
    def named(values: tuple[float, ...]) -> dict[str, dict[str, float]]:
        flat = iter(values)
        return {task: {name: next(flat) for name in own} for task, own in higher.items()}

    # What rounding to the digits that are printed can make of Δm.
    tolerance = 0.01 if higher is FASHION else 0.1
    assert relative_improvement(named(found), named(single), higher) == pytest.approx(
        printed, abs=tolerance
    )


def test_a_tasks_mean_comes_before_the_mean_over_tasks() -> None:
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
