"""What holds for every weighting function, and what defines each, against independent oracles."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch
from gramian_methods import METHODS, SEEDS, Method, draw, gramian_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize, nnls

import libmtl_recon.weighting
from libmtl_recon import UsageError
from libmtl_recon.weighting import (
    aligned_mtl_weights,
    cagrad_weights,
    fairgrad_weights,
    imtl_g_weights,
    mgda_weights,
    nash_mtl_weights,
    pcgrad_weights,
    upgrad_weights,
)
from libmtl_recon.weighting.cagrad import cagrad_step

every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
RANDOM = (METHODS["PCGrad"], METHODS["GradVac"])
quick = settings(deadline=None, max_examples=25)
MODULES = [found.name for found in pkgutil.iter_modules(libmtl_recon.weighting.__path__)]


@pytest.mark.parametrize("module", [name for name in MODULES if name != "libmtl"])
def test_the_examples_in_docstrings_run(module: str) -> None:
    found = importlib.import_module(f"libmtl_recon.weighting.{module}")
    assert doctest.testmod(found).failed == 0


def test_every_weighting_has_an_example() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    names = set(libmtl_recon.weighting.__all__) - {"RotoGrad", "fold_rotation", "gradvac_weights"}
    assert len(names) == 12
    for name in names:
        found = finder.find(getattr(libmtl_recon.weighting, name))
        assert [example for test in found for example in test.examples], name


@every
@quick
@given(SEEDS, st.integers(1, 6), st.integers(-12, 12))
def test_the_scale_of_the_gramian_makes_a_power_of_itself(
    method: Method, seed: int, tasks: int, decade: int
) -> None:
    matrix = gramian_of(draw(seed, tasks))
    scale = 10.0**decade
    found = method.weigh(scale * matrix)
    torch.testing.assert_close(
        found, scale**method.power * method.weigh(matrix), rtol=1e-6, atol=1e-8 * float(found.max())
    )


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("PCGrad", "GradVac")])
@quick
@given(SEEDS, st.integers(2, 6))
def test_the_order_of_the_tasks_makes_no_difference(name: str, seed: int, tasks: int) -> None:
    rows = draw(seed, tasks)
    order = np.random.default_rng(seed).permutation(tasks)
    weigh = METHODS[name].weigh
    found, wanted = weigh(gramian_of(rows[order])), weigh(gramian_of(rows))[order]
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-8 * float(wanted.abs().max()))


@quick
@given(SEEDS, st.integers(2, 5))
def test_pcgrad_in_the_same_orders_is_the_same_for_tasks_in_another_order(
    seed: int, tasks: int
) -> None:
    rows, rng = draw(seed, tasks), np.random.default_rng(seed)
    orders = [[o for o in rng.permutation(tasks).tolist() if o != t] for t in range(tasks)]
    order = rng.permutation(tasks).tolist()
    moved = [[order.index(other) for other in orders[task]] for task in order]
    found = pcgrad_weights(gramian_of(rows[order]), moved)
    torch.testing.assert_close(found, pcgrad_weights(gramian_of(rows), orders)[order])


def test_pcgrad_draws_every_order_of_the_tasks_as_often() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]])
    generator = torch.Generator().manual_seed(0)
    seen = [
        tuple(pcgrad_weights(gramian_of(rows), generator=generator).round(decimals=6).tolist())
        for _ in range(400)
    ]
    # Each of the three tasks has two orders, and their weights all differ.
    orders = [
        [a, b, c] for a in ([1, 2], [2, 1]) for b in ([0, 2], [2, 0]) for c in ([0, 1], [1, 0])
    ]
    wanted = {
        tuple(pcgrad_weights(gramian_of(rows), order).round(decimals=6).tolist())
        for order in orders
    }
    assert set(seen) == wanted
    shares = [seen.count(one) / 400 for one in wanted]
    assert sum(shares) == pytest.approx(1)
    assert max(shares) < 4 * min(shares)


def test_pcgrad_goes_on_with_its_generator_and_leaves_the_default_one_alone() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]])
    state = torch.get_rng_state()
    one, other = (torch.Generator().manual_seed(3) for _ in range(2))
    found = [pcgrad_weights(gramian_of(rows), generator=one) for _ in range(20)]
    assert torch.equal(torch.get_rng_state(), state)
    again = [pcgrad_weights(gramian_of(rows), generator=other) for _ in range(20)]
    torch.testing.assert_close(found, again, rtol=0, atol=0)
    assert len({tuple(weights.tolist()) for weights in found}) > 1
    torch.manual_seed(3)
    torch.testing.assert_close(pcgrad_weights(gramian_of(rows)), found[0], rtol=0, atol=0)


@every
@quick
@given(SEEDS, st.integers(1, 5))
def test_a_gradient_of_zero_changes_nothing_for_the_others(
    method: Method, seed: int, tasks: int
) -> None:
    rows = draw(seed, tasks)
    place = seed % (tasks + 1)
    with_zero = np.insert(rows, place, 0.0, axis=0)
    weights = method.weigh(gramian_of(with_zero)).numpy()
    assert np.isfinite(weights).all()
    update = weights @ with_zero
    if method.drops_zero and method not in RANDOM:
        wanted = method.weigh(gramian_of(rows)).numpy() @ rows
        np.testing.assert_allclose(update, wanted, rtol=0, atol=1e-7 * np.abs(rows).max())
    elif method.weigh in (METHODS["MGDA"].weigh, METHODS["MGDA, l2"].weigh):
        np.testing.assert_allclose(update, 0, atol=1e-12 * np.abs(rows).max())


@every
@pytest.mark.parametrize("size", [1e-10, 1.0, 1e10])
def test_opposite_gradients_have_their_own_weights(method: Method, size: float) -> None:
    rows = size * np.array([[1.0, 0.0], [-2.0, 0.0]])
    wanted = np.array(method.opposite)
    if method.power and method is not METHODS["Nash-MTL with its state"]:
        wanted = wanted * size ** (2 * method.power)
    np.testing.assert_allclose(method.weigh(gramian_of(rows)), wanted, rtol=1e-9, atol=1e-12)


@every
def test_equal_and_opposite_gradients_in_any_direction_make_no_update(method: Method) -> None:
    for seed in range(20):
        row = draw(seed, 1)
        rows = np.concatenate([row, -row])
        update = method.weigh(gramian_of(rows)).numpy() @ rows
        np.testing.assert_allclose(update, 0, atol=1e-7 * np.abs(row).max())


@every
def test_one_task_has_the_update_that_the_method_says(method: Method) -> None:
    assert method.weigh([[4.0]]).tolist() == pytest.approx([method.alone], rel=1e-12)


@every
def test_gradients_of_zero_make_no_update_and_no_nan(method: Method) -> None:
    for tasks in (1, 2, 4):
        assert torch.isfinite(method.weigh(torch.zeros(tasks, tasks))).all()


@every
def test_a_length_that_its_dtype_has_lost_makes_no_infinity(method: Method) -> None:
    # 1e-25 squared is 0 in float32; its dot product with 1 is not.
    for sign in (1.0, -1.0):
        matrix = torch.tensor([[1.0, sign * 1e-25], [sign * 1e-25, 0.0]])
        weights = method.weigh(matrix)
        assert torch.isfinite(weights).all()
        assert weights.abs().max() <= 2


@every
@quick
@given(SEEDS, st.integers(2, 5), st.floats(-14, -1), st.sampled_from([1.0, -1.0, 0.0]))
def test_nearly_dependent_gradients_make_an_update_that_is_finite_and_no_longer_than_it_should(
    method: Method, seed: int, tasks: int, decade: float, sign: float
) -> None:
    rows = draw(seed, tasks, decades=0)
    base = sign * rows[0] if sign else rows[:-1].sum(0)
    rows[-1] = base + 10**decade * rows[-1]
    weights = method.weigh(gramian_of(rows)).numpy()
    assert np.isfinite(weights).all()
    if method.signed:
        return
    assert weights.min() >= 0
    if method.power == 0:
        # No longer than the gradients, projected, and added up.
        longest = 2 * tasks * np.linalg.norm(rows, axis=1).max()
        assert np.linalg.norm(weights @ rows) <= longest


@every
def test_weights_are_float64_without_a_graph_and_the_gramian_stays_as_it_was(
    method: Method,
) -> None:
    matrix = gramian_of(draw(2, 3)).float().requires_grad_()
    before = matrix.detach().clone()
    weights = method.weigh(matrix)
    assert (weights.dtype, weights.requires_grad, list(weights.shape)) == (
        torch.float64,
        False,
        [3],
    )
    assert torch.equal(matrix.detach(), before)
    wanted = method.weigh(matrix.detach().double())
    torch.testing.assert_close(weights, wanted, rtol=0, atol=0)
    for other in (matrix.detach().numpy(), matrix.detach().double().tolist()):
        torch.testing.assert_close(method.weigh(other), wanted, rtol=0, atol=0)


NONE_OF_THEM: list[tuple[Any, str]] = [
    (np.ones((3, 2)), "must be a square matri|must be square matrices"),
    (torch.ones(3), "must be a square matri|must be square matrices"),
    (torch.zeros(0, 0), "must have at least one task"),
    (torch.eye(2, dtype=torch.complex64), "must hold real numbers"),
    (torch.eye(2, dtype=torch.bool), "must hold real numbers"),
    (torch.tensor([[1.0, 0.5], [0.1, 1.0]]), "must be symmetric"),
    (torch.tensor([[1.0, 0.0], [0.0, -1.0]]), "must have no negative number on its diagonal"),
    (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "must have no negative eigenvalue"),
    (torch.tensor([[1.0, float("nan")], [float("nan"), 1.0]]), "must hold finite numbers"),
    (torch.diag(torch.tensor([1.0, float("inf")])), r"must hold finite numbers .*tasks \[1\]"),
    (None, "must be a matrix of numbers"),
    ("gramian", "must be a matrix of numbers"),
]


@every
@pytest.mark.parametrize(("given", "says"), NONE_OF_THEM)
def test_what_is_no_gramian_is_refused_in_a_sentence(method: Method, given: Any, says: str) -> None:
    with pytest.raises(UsageError, match=rf"^gramian ({says})") as raised:
        method.weigh(given)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: cagrad_weights(m, c=-0.1), "c must be a finite number of at least 0"),
        (lambda m: cagrad_weights(m, c="0.4"), "c must be a finite number of at least 0"),
        (lambda m: cagrad_weights(m, rescale=3), "rescale must be 0, 1 or 2"),
        (lambda m: fairgrad_weights(m, alpha=0), "alpha must be a finite number from 0.01 to 20"),
        (
            lambda m: nash_mtl_weights(m, max_norm=-1),
            "max_norm must be a finite number of at least",
        ),
        (lambda m: mgda_weights(m, normalization="l1"), "normalization must be one of none, l2"),
        (lambda m: mgda_weights(m, normalization="loss"), "losses must be 2 finite numbers"),
        (lambda m: aligned_mtl_weights(m, 2.0), "precision must be a finite number from 0 to 1"),
        (lambda m: aligned_mtl_weights(m, preference=[1]), "preference must be 2 finite numbers"),
        (lambda m: upgrad_weights(m, preference=[1, -1]), "preference must be 2 finite numbers"),
        (lambda m: upgrad_weights(m, preference="ab"), "preference must be 2 finite numbers"),
        (lambda m: pcgrad_weights(m, generator=3), "generator must be a torch.Generator"),
        (lambda m: pcgrad_weights(m, guard=-1), "guard must be a finite number of at least 0"),
    ],
)
def test_keywords_out_of_their_range_are_named(call: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}"):
        call(torch.eye(2))


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 8), st.integers(1, 12), st.floats(0.0, 0.95), st.floats(0.0, 6.0))
def test_no_update_in_cagrads_ball_serves_the_worst_task_better(
    seed: int, tasks: int, dimension: int, c: float, decades: float
) -> None:
    rows = draw(seed, tasks, decades, dimension)
    update, mean = cagrad_weights(gramian_of(rows), c=c).numpy() @ rows, rows.mean(0)
    radius = c * np.linalg.norm(mean)
    assert np.linalg.norm(update - mean) <= radius * (1 + 1e-6) + 1e-12 * np.abs(rows).max()
    # For any w on the simplex the worst task gains no more than g_w·g₀ + c‖g₀‖ ‖g_w‖: equality
    # proves that the update and w are the best.
    worst = cagrad_step(gramian_of(rows), c).worst.numpy() @ rows
    bound = worst @ mean + radius * np.linalg.norm(worst)
    size = np.abs(rows @ mean).max() + np.linalg.norm(rows, axis=1).max() * radius
    assert (rows @ update).min() >= bound - 1e-9 * size


@quick
@given(SEEDS, st.integers(2, 6), st.floats(0.1, 0.9))
def test_cagrads_dual_is_no_larger_than_what_scipy_finds(seed: int, tasks: int, c: float) -> None:
    rows = draw(seed, tasks, decades=1)
    matrix = rows @ rows.T
    radius = c * np.sqrt(matrix.mean())

    def dual(w: np.ndarray) -> float:
        return float(w @ matrix.mean(1) + radius * np.sqrt(w @ matrix @ w))

    found = dual(cagrad_step(gramian_of(rows), c).worst.numpy())
    theirs = minimize(
        dual,
        np.full(tasks, 1 / tasks),
        bounds=[(0, 1)] * tasks,
        constraints={"type": "eq", "fun": lambda w: 1 - w.sum()},
        options={"ftol": 1e-12},
    )
    assert found == pytest.approx(dual(theirs.x), rel=1e-4, abs=1e-6 * matrix.max())
    assert found <= dual(theirs.x) + 1e-9 * matrix.max()


def test_cagrad_where_the_mean_can_be_made_to_serve_all_though_a_combination_is_zero() -> None:
    # Opposite gradients and one across: Algorithm 1 divides zero by zero.
    rows = np.array([[1.0, 0.0], [-0.5, 0.0], [0.0, 3.0]])
    update = cagrad_weights(gramian_of(rows), c=0.9).numpy() @ rows
    np.testing.assert_allclose(update, [0.0, 1.0], atol=1e-9)
    # With a small c that is too far from the mean, (1/6, 1): as near as it may be.
    update = cagrad_weights(gramian_of(rows), c=0.1).numpy() @ rows
    assert np.linalg.norm(update - rows.mean(0)) == pytest.approx(0.1 * np.hypot(1 / 6, 1))
    assert update[0] == pytest.approx(1 / 6 - 0.1 * np.hypot(1 / 6, 1), rel=1e-6)


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 8), st.integers(1, 12), st.floats(0.0, 8.0))
def test_mgda_has_the_shortest_convex_combination(
    seed: int, tasks: int, dimension: int, decades: float
) -> None:
    rows = draw(seed, tasks, decades, dimension)
    weights = mgda_weights(gramian_of(rows)).numpy()
    update = weights @ rows
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    # Karush-Kuhn-Tucker: no gradient lies less far along the update than the update itself.
    lengths = np.linalg.norm(rows, axis=1)
    slack = rows @ update - update @ update
    assert (slack >= -1e-9 * lengths * (weights @ lengths)).all()


def test_mgda_divides_gradients_by_lengths_and_losses() -> None:
    rows, losses = draw(4, 3), np.array([2.0, 0.5, 1.0])
    lengths = np.linalg.norm(rows, axis=1)
    for kind, divided in (("l2", lengths), ("loss", losses), ("loss+", losses * lengths)):
        found = mgda_weights(gramian_of(rows), normalization=kind, losses=losses)
        unit = rows / divided[:, None]
        np.testing.assert_allclose(found, mgda_weights(gramian_of(unit)).numpy() / divided)


def test_mgda_gives_gradients_of_zero_all_the_weight_in_equal_parts() -> None:
    assert mgda_weights(torch.diag(torch.tensor([0.0, 1.0, 0.0]))).tolist() == [0.5, 0.0, 0.5]
    assert mgda_weights(torch.zeros(4, 4)).tolist() == [0.25] * 4


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 7), st.floats(0.0, 4.0))
def test_imtl_g_projects_alike_and_its_weights_have_sum_one(
    seed: int, tasks: int, decades: float
) -> None:
    rows = draw(seed, tasks, decades)
    weights = imtl_g_weights(gramian_of(rows)).numpy()
    lengths = np.linalg.norm(rows, axis=1)
    projections = rows @ (weights @ rows) / lengths
    np.testing.assert_allclose(
        projections, projections.mean(), rtol=0, atol=1e-8 * (np.abs(weights) @ lengths)
    )
    assert weights.sum() == pytest.approx(1, rel=1e-9, abs=1e-12 * np.abs(weights).max())


def test_imtl_g_may_go_uphill_for_every_task() -> None:
    # No two conflict, and the short one lies nearly between the others.
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.006, 0.006, 0.0053]])
    assert (rows @ rows.T).min() >= 0
    update = imtl_g_weights(gramian_of(rows)).numpy() @ rows
    assert (rows @ update < -5e-5).all()


def test_imtl_g_has_no_weights_where_none_of_sum_one_are_impartial() -> None:
    unit = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.6, 0.53]])
    unit[2] /= np.linalg.norm(unit[2])
    alike = np.linalg.solve(unit @ unit.T, np.ones(3))
    # Lengths for which the impartial weights, β / length, have the sum 0.
    lengths = np.array([1.0, 1.0, -alike[2] / (alike[0] + alike[1])])
    rows = unit * lengths[:, None]
    assert imtl_g_weights(gramian_of(rows)).tolist() == [0.0, 0.0, 0.0]


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 7), st.floats(0.0, 6.0), st.floats(0.2, 10.0))
def test_fairgrad_solves_its_equation(seed: int, tasks: int, decades: float, alpha: float) -> None:
    rows = draw(seed, tasks, decades)
    weights = fairgrad_weights(gramian_of(rows), alpha=alpha).numpy()
    assert weights.min() > 0
    gains = rows @ (weights @ rows)
    added = np.abs(rows @ rows.T) @ weights
    np.testing.assert_array_less(
        np.abs(gains - weights ** (-1 / alpha)), 1e-7 * weights ** (-1 / alpha) + 1e-13 * added
    )
    if alpha == 1:
        np.testing.assert_allclose(nash_mtl_weights(gramian_of(rows)), weights, rtol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_fairgrad_finds_weights_that_rounding_leaves_room_for(seed: int) -> None:
    # Beside long gradients, what a short one gains is lost in rounding errors of the sum.
    rows = draw(seed, 6, decades=8.0)
    weights = fairgrad_weights(gramian_of(rows), alpha=0.05).numpy()
    assert weights.min() > 0
    left = np.abs(rows @ (weights @ rows) - weights**-20.0)
    added = np.abs(rows @ rows.T) @ weights
    np.testing.assert_array_less(left, 1e-7 * weights**-20.0 + 1e-13 * added)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 3.0, 20.0])
def test_fairgrad_of_two_gradients_is_the_root_of_one_equation(alpha: float) -> None:
    matrix = np.array([[4.0, -0.9], [-0.9, 0.25]])

    def second(first: float) -> float:
        return (first ** (-1 / alpha) - matrix[0, 0] * first) / matrix[0, 1]

    def left(first: float) -> float:
        other = second(first)
        return matrix[1, 0] * first + matrix[1, 1] * other - other ** (-1 / alpha)

    # Above where the second weight becomes positive, which is where the first would be alone.
    least = matrix[0, 0] ** (-alpha / (1 + alpha))
    root = brentq(left, least * (1 + 1e-9), 1e3 * least, xtol=1e-15)
    found = fairgrad_weights(matrix, alpha=alpha).tolist()
    assert found == pytest.approx([root, second(root)], rel=1e-6)


@quick
@given(SEEDS, st.integers(1, 6))
def test_nash_mtls_update_is_as_long_as_the_root_of_the_number_of_tasks(
    seed: int, tasks: int
) -> None:
    rows = draw(seed, tasks)
    update = nash_mtl_weights(gramian_of(rows)).numpy() @ rows
    assert np.linalg.norm(update) == pytest.approx(tasks**0.5, rel=1e-7)
    cut = nash_mtl_weights(gramian_of(rows), max_norm=0.5).numpy() @ rows
    np.testing.assert_allclose(cut, 0.5 * update / tasks**0.5, rtol=0, atol=1e-7)
    whole = nash_mtl_weights(gramian_of(rows), max_norm=3.0).numpy() @ rows
    np.testing.assert_allclose(whole, update, rtol=0, atol=1e-12)


@quick
@given(SEEDS, st.integers(1, 6), st.booleans())
def test_aligned_gradients_are_orthogonal_and_as_long_as_the_shortest_component(
    seed: int, tasks: int, preferred: bool
) -> None:
    rows = draw(seed, tasks)
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    aligned = sizes.min() * left @ right
    np.testing.assert_allclose(aligned @ aligned.T, sizes.min() ** 2 * np.eye(tasks), atol=1e-9)
    preference = np.random.default_rng(seed).uniform(0, 2, tasks) if preferred else np.ones(tasks)
    weights = aligned_mtl_weights(
        gramian_of(rows), preference=preference.tolist() if preferred else None
    )
    np.testing.assert_allclose(
        weights.numpy() @ rows, preference @ aligned, rtol=0, atol=1e-8 * sizes.max()
    )


def test_aligned_mtl_leaves_out_what_the_dtype_does_not_resolve() -> None:
    matrix = torch.tensor([[1.0, 0.0], [0.0, 1e-8]])
    torch.testing.assert_close(aligned_mtl_weights(matrix)[1].item(), 0.0)
    # Of the length 1e-4 in float64: both components as long as that one.
    found = aligned_mtl_weights(torch.diag(torch.tensor([1.0, 1e-8], dtype=torch.float64)))
    torch.testing.assert_close(found, torch.tensor([1e-4, 1.0], dtype=torch.float64))
    assert aligned_mtl_weights(matrix.double(), 1e-7)[1].item() == 0


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 7), st.integers(1, 12), st.floats(0.0, 6.0))
def test_upgrad_adds_up_the_nearest_vectors_that_conflict_with_none(
    seed: int, tasks: int, dimension: int, decades: float
) -> None:
    rows = draw(seed, tasks, decades, dimension)
    weights = upgrad_weights(gramian_of(rows)).numpy()
    update = weights @ rows
    lengths = np.linalg.norm(rows, axis=1)
    assert (weights >= 1 / tasks).all()
    assert (rows @ update >= -1e-10 * lengths * (weights @ lengths)).all()
    # By SciPy, on the gradients: g + Gᵀx with x ≥ 0 is nearest to 0 for the projection of g.
    unit = rows / lengths[:, None]
    wanted = sum(row + nnls(unit.T, -row, maxiter=1000)[0] @ unit for row in rows) / tasks
    np.testing.assert_allclose(update, wanted, rtol=0, atol=1e-7 * lengths.max())


def test_upgrads_preference_weighs_the_projections() -> None:
    rows = np.array([[1.0, 0.0], [-1.0, 1.0]])
    update = upgrad_weights(gramian_of(rows), preference=[2.0, 0.0]).numpy() @ rows
    np.testing.assert_allclose(update, [1.0, 1.0])


def test_upgrad_knows_no_least_length() -> None:
    rows = 1e-8 * np.array([[1.0, 0.0], [-2.0, 1.0]])
    np.testing.assert_allclose(upgrad_weights(gramian_of(rows)), [1.5, 0.7], rtol=1e-9)
