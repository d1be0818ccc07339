"""MGDA, IMTL, Nash-MTL, Aligned-MTL and GradNorm by themselves, against what defines them.

More of each, under a LibMTL, is in `tests/integrations/libmtl`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch import Tensor

from libmtl_recon import UsageError
from libmtl_recon.weighting import (
    aligned_mtl_weights,
    imtl_g_weights,
    mgda_weights,
    nash_mtl_weights,
)
from libmtl_recon.weighting.gradnorm import imbalance, inverse_rates
from libmtl_recon.weighting.mgda import normalisers, shortest

FUNCTIONS: list[Callable[[Any], Tensor]] = [
    *(aligned_mtl_weights, imtl_g_weights, mgda_weights, nash_mtl_weights)
]


def rows(seed: int, tasks: int, decades: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(tasks, 20)) * 10 ** rng.uniform(-decades / 2, decades / 2, (tasks, 1))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(-2.0, 2.0))
def test_mgda_for_two_tasks_keeps_both_weights_above_zero_in_libmtl(
    seed: int, shift: float
) -> None:
    one, two = rows(seed, 2) + shift
    matrix = np.array([[one @ one, one @ two], [one @ two, two @ two]])
    weight, rest = shortest(torch.from_numpy(matrix)).tolist()
    assert weight + rest == pytest.approx(1, abs=1e-15)

    def squared(w: float) -> float:
        return float(np.sum((w * one + (1 - w) * two) ** 2))

    least = minimize_scalar(squared, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
    if squared(1) <= squared(1 - 1e-7):
        assert weight == 0.999
    elif squared(0) <= squared(1e-7):
        assert weight == 0.001
    else:
        assert weight == pytest.approx(least, abs=1e-6)
        assert mgda_weights(matrix).tolist() == pytest.approx([weight, rest], abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 9))
def test_mgda_for_more_tasks_descends_on_all_of_them(seed: int, tasks: int) -> None:
    gradients = rows(seed, tasks)
    weights = mgda_weights(gradients @ gradients.T).numpy()
    update = weights @ gradients
    assert weights.min() >= 0
    # The condition of optimality: no gradient lies less far along the update than itself.
    scale = np.square(gradients).sum(1).max()
    assert (gradients @ update).min() >= update @ update - 1e-9 * scale


def test_mgda_divides_by_lengths_and_losses_and_never_by_zero() -> None:
    lengths = torch.tensor([2.0, 0.0, 5.0], dtype=torch.float64)
    losses = torch.tensor([3.0, 4.0, 0.0], requires_grad=True)
    wanted = {"none": [1, 1, 1], "l2": [2, 1, 5], "loss": [3, 4, 1], "loss+": [6, 1, 1]}
    for kind, found in wanted.items():
        made = normalisers(kind, lengths, losses)
        assert (made.tolist(), made.dtype, made.requires_grad) == (found, torch.float64, False)
    with pytest.raises(
        UsageError, match=r"normalization must be one of none, l2, loss, loss\+.*'l3'"
    ):
        normalisers("l3", lengths, losses)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_imtl_projects_alike_onto_every_gradient(seed: int, tasks: int) -> None:
    gradients = rows(seed, tasks)
    weights = imtl_g_weights(gradients @ gradients.T).numpy()
    projections = gradients @ (weights @ gradients) / np.linalg.norm(gradients, axis=1)
    size = np.abs(weights) @ np.linalg.norm(gradients, axis=1)
    np.testing.assert_allclose(projections, projections[0], rtol=0, atol=1e-6 * size)
    assert weights.sum() == pytest.approx(1, abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_nash_mtl_gains_for_each_task_the_inverse_of_its_weight(seed: int, tasks: int) -> None:
    gradients = rows(seed, tasks)
    weights = nash_mtl_weights(gradients @ gradients.T)
    np.testing.assert_allclose(gradients @ (weights.numpy() @ gradients), 1 / weights, rtol=1e-7)


def test_nash_mtl_makes_no_solution_up() -> None:
    assert nash_mtl_weights([[1.0, -1.0], [-1.0, 1.0]]).tolist() == [0.0, 0.0]


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_aligned_mtl_makes_all_components_as_long_as_the_shortest(seed: int, tasks: int) -> None:
    gradients = rows(seed, tasks)
    left, sizes, right = np.linalg.svd(gradients, full_matrices=False)
    weights = aligned_mtl_weights(gradients @ gradients.T, precision=1e-15).numpy()
    wanted = (sizes.min() * left @ right).sum(0)
    np.testing.assert_allclose(weights @ gradients, wanted, rtol=0, atol=1e-8 * sizes.max())


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_gramian_may_be_a_list_and_must_be_one(function: Callable[[Any], Any]) -> None:
    gradients = rows(3, 3)
    matrix = gradients @ gradients.T
    found = function(torch.from_numpy(matrix))
    assert (found.dtype, list(found.shape)) == (torch.float64, [3])
    torch.testing.assert_close(function(matrix.tolist()), found)
    with pytest.raises(UsageError, match=r"gramian must hold finite numbers"):
        function([[1.0, float("nan")], [float("nan"), 1.0]])
    with pytest.raises(UsageError, match=r"gramian must be a square matrix"):
        function([[1.0, 2.0]])


@given(
    losses=st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    first=st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    alpha=st.floats(0.0, 3.0),
)
def test_gradnorm_trains_its_weights_by_the_papers_loss(
    losses: list[float], first: list[float], alpha: float
) -> None:
    weights = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([3.0, 0.2, 1.0], dtype=torch.float64)
    now, then = (torch.tensor(values, dtype=torch.float64) for values in (losses, first))
    rates = inverse_rates(now, then, alpha)
    found = imbalance(weights, lengths, rates)
    found.backward()
    # Equations 1 and 2, and the derivative of the absolute values with the means held fixed.
    norms = weights.detach().numpy() * lengths.numpy()
    ratios = np.array(losses) / np.array(first)
    apart = norms - norms.mean() * (ratios / ratios.mean()) ** alpha
    assert found.item() == pytest.approx(np.abs(apart).sum(), rel=1e-9)
    np.testing.assert_allclose(weights.grad, np.sign(apart) * lengths.numpy())


def test_gradnorm_takes_a_task_without_a_first_loss_for_one_that_has_not_moved() -> None:
    first, now = torch.tensor([0.0, 2.0]), torch.tensor([0.0, 4.0])
    torch.testing.assert_close(inverse_rates(now, first, 1.0), torch.tensor([2 / 3, 4 / 3]))
    assert inverse_rates(torch.zeros(2), torch.ones(2), 1.5).tolist() == [1.0, 1.0]
