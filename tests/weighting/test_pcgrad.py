from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libmtl_recon.weighting import gradops_weights, pcgrad_weights


def papers_update(gradients: np.ndarray, orders: list[list[int]]) -> np.ndarray:
    """Algorithm 1, word by word, on the gradients themselves."""
    total = np.zeros_like(gradients[0])
    for own, order in enumerate(orders):
        vector = gradients[own].copy()
        for other in order:
            along = vector @ gradients[other]
            if along < 0:
                vector -= along / (gradients[other] @ gradients[other]) * gradients[other]
        total += vector
    return total


def draw(seed: int, tasks: int, dimension: int, decades: float) -> np.ndarray:
    """Gradients of which many conflict, over `decades` of norm."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, dimension)) - 0.3 * rng.normal(size=dimension)
    return gradients * 10.0 ** rng.uniform(-decades / 2, decades / 2, size=(tasks, 1))


def draw_orders(seed: int, tasks: int, *, own: bool) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    everyone = [rng.permutation(tasks).tolist() for _ in range(tasks)]
    return everyone if own else [[o for o in order if o != t] for t, order in enumerate(everyone)]


def ours(gradients: np.ndarray, orders: list[list[int]]) -> np.ndarray:
    matrix = torch.from_numpy(gradients @ gradients.T)
    return pcgrad_weights(matrix, orders).numpy() @ gradients


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(1, 40),
    st.floats(0.0, 8.0),
    st.booleans(),
)
def test_is_the_papers_algorithm(
    seed: int, tasks: int, dimension: int, decades: float, own: bool
) -> None:
    # In fewer dimensions than tasks the gradients are dependent.
    gradients = draw(seed, tasks, dimension, decades)
    orders = draw_orders(seed, tasks, own=own)
    expected = papers_update(gradients, orders)
    longest = np.linalg.norm(gradients, axis=1).max()
    np.testing.assert_allclose(ours(gradients, orders), expected, rtol=0, atol=1e-12 * longest)


def test_two_tasks_in_any_order_are_gradops() -> None:
    gradients = draw(3, 2, 12, 0.0)
    gradients[1] -= 1.5 * gradients[0]
    matrix = torch.from_numpy(gradients @ gradients.T)
    assert matrix[0, 1] < 0
    torch.testing.assert_close(
        pcgrad_weights(matrix, [[0, 1], [1, 0]]), gradops_weights(matrix), rtol=1e-12, atol=0
    )


def test_without_a_conflict_all_weights_are_one() -> None:
    matrix = torch.tensor([[1.0, 0.2], [0.2, 3.0]])
    found = pcgrad_weights(matrix, [[1], [0]])
    assert found.tolist() == [1.0, 1.0]
    assert found.dtype == torch.float64


def test_opposite_gradients_and_one_of_zero_leave_nothing() -> None:
    gradients = np.array([[1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]])
    np.testing.assert_allclose(ours(gradients, [[1, 2], [2, 0], [0, 1]]), 0.0, atol=1e-15)


def test_the_guard_softens_the_projection() -> None:
    matrix = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    # Each loses 1 / (1 + 3) of the other.
    assert pcgrad_weights(matrix, [[1], [0]], guard=3.0).tolist() == [1.25, 1.25]
