from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libmtl_recon import UsageError
from libmtl_recon.weighting import cagrad_weights
from libmtl_recon.weighting.cagrad import cagrad_step


def draw(seed: int, tasks: int, dimension: int = 30) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tasks, dimension)) - 0.3 * rng.normal(size=dimension)


def gramian_of(gradients: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(gradients @ gradients.T)


@pytest.mark.parametrize("tasks", [2, 4, 7, 40])
def test_the_worst_combination_minimises_the_dual(tasks: int) -> None:
    rng = np.random.default_rng(tasks)
    gradients = draw(tasks, tasks)
    gramian = gradients @ gradients.T
    radius = 0.5 * np.sqrt(gramian.mean())

    def dual(w: np.ndarray) -> float:
        return float(w @ gramian.mean(axis=1) + radius * np.sqrt(w @ gramian @ w))

    found = cagrad_step(gramian_of(gradients), 0.5).worst.numpy()
    assert found.sum() == pytest.approx(1.0)
    assert found.min() >= -1e-9
    others = rng.dirichlet(np.ones(tasks) * 0.5, size=3000)
    assert dual(found) <= min(map(dual, others)) + 1e-6 * abs(dual(found))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.0, 0.95), st.sampled_from([0, 1, 2]))
def test_the_update_is_algorithm_1_on_the_gradients(
    seed: int, tasks: int, calpha: float, rescale: int
) -> None:
    gradients = draw(seed, tasks)
    step = cagrad_step(gramian_of(gradients), calpha, rescale)
    mean, worst = gradients.mean(axis=0), step.worst.numpy() @ gradients
    radius = calpha * np.linalg.norm(mean)
    expected = mean + radius / np.linalg.norm(worst) * worst
    expected /= {0: 1.0, 1: 1 + calpha**2, 2: 1 + calpha}[rescale]
    np.testing.assert_allclose(
        step.weights.numpy() @ gradients, expected, rtol=0, atol=1e-6 * np.abs(expected).max()
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_serves_the_worst_task_better_than_the_mean_gradient_does(seed: int, tasks: int) -> None:
    gradients = draw(seed, tasks)
    update = cagrad_weights(gramian_of(gradients), 0.5, rescale=0).numpy() @ gradients
    mean = gradients.mean(axis=0)
    assert np.linalg.norm(update - mean) <= 0.5 * np.linalg.norm(mean) * (1 + 1e-6)
    least = (gradients @ mean).min()
    assert (gradients @ update).min() >= least - 1e-4 * np.abs(gradients @ mean).max()


def test_gradients_that_cancel_give_a_finite_update() -> None:
    gradients = np.array([[1.0, 0.0], [-1.0, 0.0]])
    weights = cagrad_weights(gramian_of(gradients), 0.5)
    assert torch.isfinite(weights).all()
    np.testing.assert_allclose(weights.numpy() @ gradients, 0.0, atol=1e-6)


def test_there_are_three_ways_to_rescale() -> None:
    with pytest.raises(UsageError, match=r"rescale must be 0, 1 or 2 \(got 3\)"):
        cagrad_weights(torch.eye(2), 0.5, 3)


def test_large_gradients_leave_no_weights_off_the_simplex() -> None:
    # A step of five Cross_stitch tasks, for which SciPy's solver gives up.
    gramian = torch.tensor(
        [
            [14568.904, 22739.278, 38786.062, -4150.276, -7933.057],
            [22739.278, 44950.974, 68216.313, -8121.158, -25341.162],
            [38786.062, 68216.313, 224673.749, -47764.358, 21671.063],
            [-4150.276, -8121.158, -47764.358, 92578.275, -2109.666],
            [-7933.057, -25341.162, 21671.063, -2109.666, 265459.412],
        ],
        dtype=torch.float64,
    )
    worst = cagrad_step(gramian, 0.5).worst.numpy()
    assert worst.sum() == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(worst, [0.763983, 0, 0, 0.236017, 0], atol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6])
def test_the_size_of_the_gradients_does_not_matter(size: float) -> None:
    gradients = draw(3, 5)
    found = cagrad_step(gramian_of(size * gradients), 0.5).worst.numpy()
    wanted = cagrad_step(gramian_of(gradients), 0.5).worst.numpy()
    np.testing.assert_allclose(found, wanted, atol=0.05)
