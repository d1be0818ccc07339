from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libmtl_recon.weighting import gradvac_weights


def papers_step(
    gradients: np.ndarray,
    targets: np.ndarray,
    orders: list[list[int]],
    beta: float,
    guard: float,
    always: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1, word by word, on the gradients themselves."""
    targets, total = targets.copy(), np.zeros_like(gradients[0])
    for own, order in enumerate(orders):
        vector = gradients[own].copy()
        for other in order:
            towards = gradients[other]
            length, norm = np.linalg.norm(vector), np.linalg.norm(towards)
            cosine = vector @ towards / (length * norm + guard)
            goal = targets[own, other]
            if cosine < goal:
                sine, wanted = np.sqrt(1 - cosine**2), np.sqrt(1 - goal**2)
                vector = vector + towards * (
                    length * (goal * sine - cosine * wanted) / (norm * wanted + guard)
                )
            if cosine < goal or always:
                targets[own, other] = (1 - beta) * goal + beta * cosine
        total += vector
    return total, targets


def draw(seed: int, tasks: int, dimension: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Gradients, targets and orders."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, dimension)) - 0.3 * rng.normal(size=dimension)
    gradients *= 10.0 ** rng.uniform(-2, 2, size=(tasks, 1))
    targets = rng.uniform(-0.9, 0.9, size=(tasks, tasks))
    orders = [[o for o in rng.permutation(tasks).tolist() if o != t] for t in range(tasks)]
    return gradients, targets, orders


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 9),
    st.integers(10, 40),
    st.floats(0.0, 1.0),
    st.sampled_from([0.0, 1e-8]),
    st.booleans(),
)
def test_is_the_papers_algorithm(
    seed: int, tasks: int, dimension: int, beta: float, guard: float, always: bool
) -> None:
    gradients, targets, orders = draw(seed, tasks, dimension)
    expected, moved = papers_step(gradients, targets, orders, beta, guard, always)
    weights, found = gradvac_weights(
        torch.from_numpy(gradients @ gradients.T),
        torch.from_numpy(targets),
        orders,
        beta,
        guard=guard,
        always=always,
    )
    np.testing.assert_allclose(
        weights.numpy() @ gradients, expected, rtol=0, atol=1e-9 * np.abs(expected).max()
    )
    np.testing.assert_allclose(found.numpy(), moved, rtol=0, atol=1e-9)


def test_groups_are_done_side_by_side() -> None:
    gradients, targets, orders = draw(5, 4, 30)
    parts = [gradients[:, :10], gradients[:, 10:]]
    gramians = torch.stack([torch.from_numpy(part @ part.T) for part in parts])
    goals = torch.stack([torch.from_numpy(targets), torch.from_numpy(-targets)])
    weights, moved = gradvac_weights(gramians, goals, orders, 0.3)
    for group in range(2):
        alone = gradvac_weights(gramians[group], goals[group], orders, 0.3)
        torch.testing.assert_close(weights[group], alone[0], rtol=0, atol=0)
        torch.testing.assert_close(moved[group], alone[1], rtol=0, atol=0)


def test_raises_a_cosine_to_its_target() -> None:
    gradients = np.array([[1.0, 0.0, 0.0], [-0.6, 0.8, 0.0]])
    matrix = torch.from_numpy(gradients @ gradients.T)
    targets = torch.tensor([[0.0, 0.25], [-1.0, 0.0]])
    weights, moved = gradvac_weights(matrix, targets, [[1], [0]], 0.5)
    turned = weights.numpy() @ gradients - gradients[1]  # the second task was content
    assert turned @ gradients[1] / np.linalg.norm(turned) == pytest.approx(0.25)
    assert moved.tolist() == [[0.0, pytest.approx(-0.175)], [pytest.approx(-0.8), 0.0]]
    assert targets.tolist() == [[0.0, 0.25], [-1.0, 0.0]], "the caller's are left alone"


def test_a_target_of_one_makes_a_long_turn_and_no_infinity() -> None:
    weights, _ = gradvac_weights(torch.eye(2), torch.ones(2, 2), [[1], [0]], 0.5)
    assert torch.isfinite(weights).all()


def test_opposite_gradients_and_one_of_zero_make_no_nan() -> None:
    gradients = torch.tensor([[0.1, 0.7], [-0.3, -2.1], [0.0, 0.0]], dtype=torch.float64)
    for guard in (0.0, 1e-8):
        weights, moved = gradvac_weights(
            gradients @ gradients.T,
            torch.zeros(3, 3),
            [[1, 2], [2, 0], [0, 1]],
            0.5,
            guard=guard,
        )
        assert torch.isfinite(weights).all()
        assert torch.isfinite(moved).all()
        assert moved[0, 2] == 0.0
