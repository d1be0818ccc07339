"""GradOPS against a transcription of the paper, and the properties that the paper claims."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from libmtl_recon import UsageError, gradops_weights
from libmtl_recon.weighting.gradops import deconflict, gradops_step


class Paper:
    """Algorithm 1 as printed: Gram-Schmidt over the gradients themselves (Eq. 1 to 5).

    In extended precision, since R of a short gradient is a small difference of large numbers.
    """

    def __init__(self, gradients: np.ndarray, alpha: float = 0.0) -> None:
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
        self.projected = np.array(projected)  # g'
        total = np.sum(projected, axis=0)
        self.pulls = np.array([total @ g / np.linalg.norm(g) for g in gradients])  # R
        self.speeds = self.pulls / (self.pulls.sum() / count)  # r
        powers = self.speeds**alpha
        self.factors = powers / (powers.sum() / count)  # w
        self.update = (self.factors @ self.projected).astype(np.float64)  # G'_new


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
    paper = Paper(gradients, alpha)
    np.testing.assert_allclose(
        ours(gradients, alpha), paper.update, rtol=0, atol=1e-10 * np.abs(paper.update).max()
    )
    step = gradops_step(torch.from_numpy(gradients @ gradients.T), alpha)
    np.testing.assert_allclose(step.speeds, paper.speeds.astype(float), rtol=1e-9)
    np.testing.assert_allclose(step.factors, paper.factors.astype(float), rtol=1e-8)


def test_two_conflicting_tasks_by_hand() -> None:
    gradients = np.array([[1.0, 0.0], [-1.0, 1.0]])
    # g1 loses its part along g2: (1, 0) + ½(-1, 1); g2 loses its part along g1: (0, 1).
    np.testing.assert_allclose(ours(gradients, 0.0), [0.5, 1.5], rtol=1e-14)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.floats(0.0, 8.0))
def test_no_projected_gradient_conflicts_with_any_gradient(
    seed: int, tasks: int, decades: float
) -> None:
    gradients = draw(seed, tasks, 3 * tasks, decades)
    projection = deconflict(torch.from_numpy(gradients @ gradients.T))
    projected = projection.coefficients.numpy() @ gradients  # g'
    norms = np.linalg.norm(gradients, axis=1)
    lengths = np.linalg.norm(projected, axis=1)
    assert (projected @ gradients.T / np.outer(lengths, norms)).min() >= -1e-7
    np.testing.assert_allclose((projected * gradients).sum(axis=1), projection.own, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.floats(0.0, 8.0))
def test_alpha_zero_is_the_plain_sum_of_the_projected(
    seed: int, tasks: int, decades: float
) -> None:
    gradients = draw(seed, tasks, 3 * tasks, decades)
    matrix = torch.from_numpy(gradients @ gradients.T)
    plain = deconflict(matrix).coefficients.sum(dim=0)
    torch.testing.assert_close(gradops_weights(matrix, 0.0), plain, rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(2, 6), st.floats(-4.0, 4.0), st.floats(-4.0, 4.0), st.data()
)
def test_scaling_one_gradient_changes_the_speeds_as_equations_3_and_4_say(
    seed: int, tasks: int, alpha: float, decades: float, data: st.DataObject
) -> None:
    gradients = draw(seed, tasks, 3 * tasks)
    scaled = gradients.copy()
    which = data.draw(st.integers(0, tasks - 1))
    scaled[which] *= 10.0**decades
    step = gradops_step(torch.from_numpy(scaled @ scaled.T), alpha)
    paper = Paper(scaled, alpha)
    np.testing.assert_allclose(step.speeds, paper.speeds.astype(float), rtol=1e-8)
    np.testing.assert_allclose(step.factors, paper.factors.astype(float), rtol=1e-7)
    # Where every task conflicts, R of this task alone changes, and in proportion.
    if deconflict(torch.from_numpy(gradients @ gradients.T)).conflicting.all():
        pulls = Paper(gradients).pulls
        pulls[which] *= np.longdouble(10.0**decades)
        np.testing.assert_allclose(step.speeds, (pulls / pulls.mean()).astype(float), rtol=1e-8)


def test_alpha_zero_without_conflict_is_the_plain_sum() -> None:
    gradients = np.abs(draw(0, 4, 9))
    weights = gradops_weights(torch.from_numpy(gradients @ gradients.T), 0.0)
    assert weights.tolist() == [1.0, 1.0, 1.0, 1.0]
    assert weights.dtype == torch.float64


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.floats(-8.0, 8.0))
def test_two_tasks_with_alpha_zero_are_pcgrad(seed: int, decades: float) -> None:
    first, second = draw(seed, 2, 5)
    second = second * 10.0**decades
    dot = min(first @ second, 0.0)
    pcgrad = (first - dot / (second @ second) * second) + (second - dot / (first @ first) * first)
    np.testing.assert_allclose(
        ours(np.array([first, second]), 0.0), pcgrad, rtol=0, atol=1e-10 * np.abs(pcgrad).max()
    )


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


@pytest.mark.parametrize("alpha", [-5.0, 0.0, 3.0])
@pytest.mark.parametrize("factor", [1e-4, 1.0, 300.0])
def test_parallel_gradients_do_not_conflict(alpha: float, factor: float) -> None:
    first = draw(2, 1, 7)[0]
    gradients = np.array([first, factor * first])
    paper = Paper(gradients, alpha)
    np.testing.assert_allclose(paper.projected.astype(float), gradients)
    np.testing.assert_allclose(ours(gradients, alpha), paper.update, rtol=1e-9)


@pytest.mark.parametrize("alpha", [-5.0, -1.0, 0.0, 2.0])
def test_speed_zero_with_negative_alpha_takes_no_weight_from_the_others(alpha: float) -> None:
    one, two, three = np.eye(3)
    # The first two are opposite, g' = 0 and R = 0: only the others count in the means of Eq. 4, 5.
    gradients = np.array([one, -2.0 * one, two, three + 0.5 * two])
    step = gradops_step(torch.from_numpy(gradients @ gradients.T), alpha)
    alone = gradops_step(torch.from_numpy(gradients[2:] @ gradients[2:].T), alpha)
    assert step.factors[:2].tolist() == [0.0, 0.0]
    assert step.speeds[:2].isnan().all()
    torch.testing.assert_close(step.factors[2:], alone.factors)
    torch.testing.assert_close(step.speeds[2:], alone.speeds)
    assert float(step.factors[2:].mean()) == pytest.approx(1.0)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 9), st.floats(-5.0, 5.0), st.booleans())
def test_a_singular_gramian_is_survived(
    seed: int, tasks: int, alpha: float, repeated: bool
) -> None:
    rng = np.random.default_rng(seed)
    # More tasks than dimensions, or a task that stands in the list twice.
    gradients = draw(seed, tasks, tasks - 1 if not repeated else 3 * tasks)
    if repeated:
        gradients[rng.integers(1, tasks)] = gradients[0] * rng.choice([1.0, -1.0, 1e3])
    update = ours(gradients, alpha)
    assert np.isfinite(update).all()
    norms = np.linalg.norm(gradients, axis=1)
    assert (gradients @ update / norms >= -1e-6 * norms.max()).all()


@pytest.mark.parametrize("alpha", [-1e6, -700.0, 700.0, 1e6])
def test_powers_of_the_speeds_do_not_overflow(alpha: float) -> None:
    gradients = draw(4, 5, 30, decades=8.0)
    step = gradops_step(torch.from_numpy(gradients @ gradients.T), alpha)
    # In the limit all weight is with the slowest task, or with the fastest.
    chosen = int(step.speeds.argmin() if alpha < 0 else step.speeds.argmax())
    expected = torch.zeros(5, dtype=torch.float64)
    expected[chosen] = 5.0
    torch.testing.assert_close(step.factors, expected)


@pytest.mark.parametrize("alpha", [-5.0, -1.0, 0.0, 2.0])
def test_a_gradient_inside_the_span_of_the_others_moves_nothing_but_counts(alpha: float) -> None:
    one, two = np.eye(3)[:2]
    # The third lies in the span of the first two, against both; and each of those two lies in the
    # span of the rest. So the update is zero; here, no direction helps all.
    gradients = np.array([one, two, -one - two])
    np.testing.assert_allclose(ours(gradients, alpha), np.zeros(3), atol=1e-12)


def at_angles(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_all_that_is_projected_may_vanish_where_a_direction_helps_all() -> None:
    gradients = at_angles(0, 100, 5)
    helps_all = at_angles(50)[0]
    assert (gradients @ helps_all).min() > 0.6
    np.testing.assert_allclose(ours(gradients, 0.0), 0, atol=1e-15)  # as in the paper
    weights = gradops_weights(gradients @ gradients.T, stationary="min_norm").numpy()
    # Of the convex hull, the point nearest to zero is the middle of the first two.
    np.testing.assert_allclose(weights, [0.5, 0.5, 0], atol=1e-12)


def nearest_to_zero(gradients: np.ndarray) -> np.ndarray:
    """The point of the convex hull that is nearest to zero, by non-negative least squares."""
    count, weight = len(gradients), 1e6 * np.linalg.norm(gradients)
    system = np.vstack([gradients.T, weight * np.ones(count)])
    found = nnls(system, np.append(np.zeros(gradients.shape[1]), weight))[0]
    point: np.ndarray = found / found.sum() @ gradients
    return point


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(1, 4), st.floats(0.0, 2.0))
def test_min_norm_takes_over_only_where_all_that_is_projected_vanishes(
    seed: int, tasks: int, dimension: int, decades: float
) -> None:
    gradients = draw(seed, tasks, dimension, decades)
    matrix = gradients @ gradients.T
    paper, found = gradops_weights(matrix, -1.0), gradops_weights(matrix, -1.0, None, "min_norm")
    if bool(paper.any()):
        assert torch.equal(found, paper)
        return
    update, nearest = found.numpy() @ gradients, nearest_to_zero(gradients)
    np.testing.assert_allclose(update, nearest, atol=1e-6 * np.abs(gradients).max())
    length = np.linalg.norm(update)
    if length > 1e-5 * np.linalg.norm(gradients, axis=1).max():
        assert (gradients @ update).min() >= length**2 * (1 - 1e-6)
        assert float(found.min()) >= 0
        assert float(found.sum()) == pytest.approx(1)


@pytest.mark.parametrize("angles", [(0, 180), (0, 120, 240), (0, 90, 180, 270)])
def test_min_norm_stops_where_the_hull_contains_zero(angles: tuple[float, ...]) -> None:
    gradients = at_angles(*angles) * 10.0 ** np.arange(len(angles))[:, None]
    found = gradops_weights(gradients @ gradients.T, stationary="min_norm")
    assert found.tolist() == [0.0] * len(angles)


def test_min_norm_leaves_gradients_of_zero_out() -> None:
    gradients = np.vstack([at_angles(0, 100, 5), np.zeros((1, 2))])
    found = gradops_weights(gradients @ gradients.T, stationary="min_norm")
    np.testing.assert_allclose(found, [0.5, 0.5, 0, 0], atol=1e-12)
    assert gradops_weights(np.zeros((2, 2)), stationary="min_norm").tolist() == [0, 0]


@pytest.mark.parametrize("given_as", [np.ndarray.tolist, np.asarray, torch.from_numpy])
def test_a_gramian_may_be_an_array_or_a_list(given_as: Callable[[np.ndarray], object]) -> None:
    matrix = draw(2, 4, 9)
    matrix = matrix @ matrix.T
    assert torch.equal(gradops_weights(given_as(matrix)), gradops_weights(torch.tensor(matrix)))
    assert gradops_weights([[1, -1], [-1, 2]]).tolist() == [2.0, 1.5]


def test_dependent_rows_beside_an_independent_one() -> None:
    rng = np.random.default_rng(5)
    one, two, free = rng.normal(size=(3, 20))
    gradients = np.array([one, -one, two, two * 3.0, free - two])
    update = ours(gradients, 0.0)
    assert np.isfinite(update).all()
    assert (gradients @ update >= -1e-9).all()
    assert np.linalg.norm(update) > 0.1


def test_static_weights_take_the_place_of_equation_5() -> None:
    gradients = draw(6, 3, 12)
    matrix = torch.from_numpy(gradients @ gradients.T)
    given = np.array([0.5, 1.0, 1.5])
    weights = gradops_weights(matrix, static=given.tolist())
    expected = (given @ Paper(gradients).projected).astype(float)  # G'_static of Appendix C.3
    np.testing.assert_allclose(weights.numpy() @ gradients, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(gradops_step(matrix, static=given.tolist()).factors, given)


@pytest.mark.parametrize(
    ("static", "alpha", "says"),
    [
        ([1.0, 2.0], 0.0, "must be 3 numbers"),
        ([1.0, 0.0, 1.0], 0.0, "above 0"),
        ([1.0, float("nan"), 1.0], 0.0, "finite"),
        ("1,1,1", 0.0, "finite numbers"),
        ([1.0, 1.0, 1.0], -1.0, "Leave one of the two out"),
    ],
)
def test_static_weights_that_cannot_be_are_refused(static: object, alpha: float, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        gradops_weights(torch.eye(3), alpha, static)


def test_the_conflict_rate_counts_pairs_with_a_gradient() -> None:
    one, two = np.eye(2)
    gradients = np.array([one, two, -one, 0.0 * one, -one - two])
    step = gradops_step(torch.from_numpy(gradients @ gradients.T))
    assert step.conflict_rate == 3 / 6
    assert np.isnan(gradops_step(torch.ones(1, 1)).conflict_rate)


def test_float32_gramians_of_extreme_norms_do_not_overflow() -> None:
    gradients = draw(7, 3, 30) * np.array([[1e-18], [1.0], [1e18]])
    weights = gradops_weights(torch.from_numpy(gradients @ gradients.T), -10.0)
    assert torch.isfinite(weights).all()


@pytest.mark.parametrize(
    ("gramian", "alpha", "named"),
    [
        (torch.eye(2), float("nan"), "alpha"),
        (torch.ones(2, 3), 0.0, "gramian"),
        (torch.tensor([[1.0, float("nan")], [float("nan"), float("inf")]]), 0.0, "tasks .1."),
        ([[1.0, float("nan")], [0.0, 1.0]], 0.0, "not finite off its diagonal"),
        ([[1.0, 0.5], [0.2, 1.0]], 0.0, "gramian must be symmetric"),
        ([[1.0, 0.0], [0.0, -1.0]], 0.0, "no negative number on its diagonal"),
        ([1.0, 2.0], 0.0, "a square matrix"),
        (torch.ones(1, 2, 2), 0.0, "a square matrix"),
        ([[1.0, 2.0], [3.0]], 0.0, "a matrix of numbers"),
        (None, 0.0, "a matrix of numbers"),
        ("eye", 0.0, "a matrix of numbers"),
        (np.eye(2) * 1j, 0.0, "a matrix of numbers"),
        (torch.eye(2) * 1j, 0.0, "real numbers"),
        (torch.eye(2, dtype=torch.bool), 0.0, "real numbers"),
    ],
)
def test_refuses_what_it_cannot_weigh(gramian: object, alpha: float, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        gradops_weights(gramian, alpha)


def test_refuses_another_way_to_stop() -> None:
    with pytest.raises(UsageError, match="stationary must be stop or min_norm"):
        gradops_weights(torch.eye(2), stationary="go")  # type: ignore[arg-type]
