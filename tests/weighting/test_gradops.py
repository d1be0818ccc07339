"""GradOPS against a transcription of the paper, and the properties that the paper claims."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libmtl_recon import UsageError, gradops_weights


def paper_update(gradients: np.ndarray, alpha: float) -> np.ndarray:
    """Algorithm 1 as printed: Gram-Schmidt over the gradients themselves (Eq. 1 to 5).

    In extended precision, since R of a short gradient is a small difference of large numbers.
    """
    gradients = gradients.astype(np.longdouble)
    count = len(gradients)
    projected = []
    for i in range(count):
        if not any(gradients[i] @ gradients[k] < 0 for k in range(count) if k != i):
            projected.append(gradients[i])
            continue
        basis: list[np.ndarray] = []
        for j in range(count):
            if j == i:
                continue
            u = gradients[j].copy()
            for earlier in basis:
                u -= (earlier @ u) / (earlier @ earlier) * earlier
            basis.append(u)
        g = gradients[i].copy()
        for u in basis:
            g -= (u @ g) / (u @ u) * u
        projected.append(g)
    total = np.sum(projected, axis=0)
    big_r = np.array([total @ g / np.linalg.norm(g) for g in gradients])
    r = big_r / (big_r.sum() / count)
    powers = r**alpha
    w = powers / (powers.sum() / count)
    return (w @ np.array(projected)).astype(np.float64)


def ours(gradients: np.ndarray, alpha: float) -> np.ndarray:
    matrix = torch.from_numpy(gradients)
    return gradops_weights(matrix @ matrix.T, alpha).numpy() @ gradients


def draw(seed: int, tasks: int, dimension: int, decades: float = 0.0) -> np.ndarray:
    """Gradients with a common negative trend (so that many conflict), over `decades` of norm."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, dimension)) - 0.3 * rng.normal(size=dimension)
    return gradients * 10.0 ** rng.uniform(-decades / 2, decades / 2, size=(tasks, 1))


@pytest.mark.parametrize("tasks", [2, 3, 5, 10, 40])
@pytest.mark.parametrize("alpha", [-3.0, -1.0, 0.0, 0.5, 2.0])
@pytest.mark.parametrize("decades", [0.0, 8.0])
def test_equals_the_papers_gram_schmidt(tasks: int, alpha: float, decades: float) -> None:
    gradients = draw(tasks, tasks, 4 * tasks + 10, decades)
    expected = paper_update(gradients, alpha)
    np.testing.assert_allclose(
        ours(gradients, alpha), expected, rtol=0, atol=1e-10 * np.abs(expected).max()
    )


def test_two_conflicting_tasks_by_hand() -> None:
    gradients = np.array([[1.0, 0.0], [-1.0, 1.0]])
    # g1 loses its part along g2: (1, 0) + ½(-1, 1); g2 loses its part along g1: (0, 1).
    np.testing.assert_allclose(ours(gradients, 0.0), [0.5, 1.5], rtol=1e-14)


def test_alpha_zero_without_conflict_is_the_plain_sum() -> None:
    gradients = np.abs(draw(0, 4, 9))
    weights = gradops_weights(torch.from_numpy(gradients @ gradients.T), 0.0)
    assert weights.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert weights.dtype == torch.float64


def test_two_tasks_with_alpha_zero_are_pcgrad() -> None:
    first, second = draw(3, 2, 12)
    second = second - 1.5 * first
    dot = first @ second
    assert dot < 0
    pcgrad = (first - dot / (second @ second) * second) + (second - dot / (first @ first) * first)
    np.testing.assert_allclose(ours(np.array([first, second]), 0.0), pcgrad, rtol=1e-10)


cases = st.tuples(
    st.integers(0, 10_000), st.integers(2, 8), st.floats(-5.0, 5.0), st.floats(0.0, 8.0)
)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_the_update_conflicts_with_no_task(case: tuple[int, int, float, float]) -> None:
    seed, tasks, alpha, decades = case
    gradients = draw(seed, tasks, 3 * tasks, decades)
    update = ours(gradients, alpha)
    cosines = gradients @ update / np.linalg.norm(gradients, axis=1) / np.linalg.norm(update)
    assert cosines.min() >= -1e-7


@settings(max_examples=100, deadline=None)
@given(cases)
def test_does_not_depend_on_the_order_of_the_tasks(
    case: tuple[int, int, float, float],
) -> None:
    seed, tasks, alpha, decades = case
    gradients = draw(seed, tasks, 3 * tasks, decades)
    order = np.random.default_rng(seed).permutation(tasks)
    update = ours(gradients, alpha)
    np.testing.assert_allclose(
        ours(gradients[order], alpha), update, rtol=0, atol=1e-8 * np.abs(update).max()
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.floats(-4.0, 4.0))
def test_scaling_all_gradients_scales_the_update(seed: int, tasks: int, alpha: float) -> None:
    gradients = draw(seed, tasks, 3 * tasks)
    np.testing.assert_allclose(
        ours(1e6 * gradients, alpha), 1e6 * ours(gradients, alpha), rtol=1e-8
    )


def test_one_task_is_plain_training() -> None:
    assert gradops_weights(torch.tensor([[4.0]]), -3.0).tolist() == [1.0]


def test_a_zero_gradient_takes_no_part() -> None:
    gradients = draw(1, 3, 9)
    with_zero = np.insert(gradients, 1, 0.0, axis=0)
    weights = gradops_weights(torch.from_numpy(with_zero @ with_zero.T), -2.0)
    assert weights[1] == 0.0
    np.testing.assert_allclose(weights.numpy() @ with_zero, ours(gradients, -2.0), rtol=1e-12)


def test_all_gradients_zero_give_no_update() -> None:
    assert gradops_weights(torch.zeros(3, 3), -1.0).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("alpha", [-5.0, 0.0, 3.0])
def test_opposite_gradients_cancel(alpha: float) -> None:
    first = draw(2, 1, 7)[0]
    np.testing.assert_array_equal(ours(np.array([first, -2.0 * first]), alpha), np.zeros(7))


@pytest.mark.parametrize("alpha", [-5.0, -1.0, 0.0, 2.0])
def test_a_gradient_inside_the_span_of_the_others_moves_nothing_but_counts(alpha: float) -> None:
    one, two = np.eye(3)[:2]
    # The third lies in the span of the first two, against both; and each of those two lies in the
    # span of the rest. No direction helps all: the update is zero (Pareto stationary).
    gradients = np.array([one, two, -one - two])
    np.testing.assert_allclose(ours(gradients, alpha), np.zeros(3), atol=1e-12)


def test_dependent_rows_beside_an_independent_one() -> None:
    rng = np.random.default_rng(5)
    one, two, free = rng.normal(size=(3, 20))
    gradients = np.array([one, -one, two, two * 3.0, free - two])
    update = ours(gradients, 0.0)
    assert np.isfinite(update).all()
    assert (gradients @ update >= -1e-9).all()
    assert np.linalg.norm(update) > 0.1


def test_float32_gramians_of_extreme_norms_do_not_overflow() -> None:
    gradients = draw(7, 3, 30) * np.array([[1e-18], [1.0], [1e18]])
    weights = gradops_weights(torch.from_numpy(gradients @ gradients.T), -10.0)
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize(
    ("gramian", "alpha", "named"),
    [
        (torch.eye(2), float("nan"), "alpha"),
        (torch.ones(2, 3), 0.0, "gramian"),
        (torch.tensor([[1.0, float("nan")], [float("nan"), float("inf")]]), 0.0, "gramian"),
    ],
)
def test_refuses_what_it_cannot_weigh(gramian: torch.Tensor, alpha: float, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        gradops_weights(gramian, alpha)
