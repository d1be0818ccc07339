"""The arithmetic of the mended weightings, against their formulas written out."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import UsageError
from libmtl_recon.plugin.mends import gls
from libmtl_recon.plugin.mends.dselect_k import binary_codes
from libmtl_recon.plugin.mends.gradvac import vaccinate


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_gls_has_the_gradient_of_the_geometric_mean(values: list[float]) -> None:
    losses = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (losses.prod() ** (1 / len(values))).backward()
    torch.testing.assert_close(gls.geometric_weights(losses.detach()), losses.grad)


def test_gls_stays_finite_where_the_product_does_not() -> None:
    for losses in (torch.full((5,), 1e-30), torch.full((5,), 1e30)):
        torch.testing.assert_close(gls.geometric_weights(losses), torch.full((5,), 0.2))


def test_gls_leaves_all_as_it_is_where_a_loss_is_zero() -> None:
    assert gls.geometric_weights(torch.tensor([0.0, 2.0, 1.0])).tolist() == [0, 0, 0]


def test_gls_names_a_negative_loss() -> None:
    with pytest.raises(UsageError, match=r"GLS needs losses of at least 0.*-1\.0"):
        gls.backward(None, torch.tensor([1.0, -1.0]))


def turned_by_vectors(
    gradients: np.ndarray, targets: np.ndarray, beta: float, draw: random.Random
) -> np.ndarray:
    """Algorithm 1 of the GradVac paper, on the gradients themselves."""
    found = gradients.copy()
    for i, vector in enumerate(found):
        order = [j for j in range(len(gradients)) if j != i]
        draw.shuffle(order)
        for j in order:
            towards = gradients[j]
            length, other = np.linalg.norm(vector), np.linalg.norm(towards)
            cosine, target = vector @ towards / (length * other), targets[i, j]
            if cosine < target:
                sine, wanted = np.sqrt(1 - cosine**2), np.sqrt(1 - target**2)
                vector += length * (target * sine - cosine * wanted) / (other * wanted) * towards
                reached = vector @ towards / np.linalg.norm(vector) / other
                assert reached == pytest.approx(target, abs=1e-9)
            targets[i, j] = (1 - beta) * target + beta * cosine
    return found


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.floats(0.0, 0.9))
def test_gradvac_in_terms_of_the_gramian_is_gradvac(tasks: int, seed: int, beta: float) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = np.zeros((tasks, tasks)), np.zeros((tasks, tasks))
    state = random.getstate()
    try:
        for step in range(3):
            gradients = rng.normal(size=(tasks, 12)) + 0.5
            random.seed(step)
            turned = vaccinate(gradients @ gradients.T, ours, beta) @ gradients
            wanted = turned_by_vectors(gradients, theirs, beta, random.Random(step))
            np.testing.assert_allclose(turned, wanted, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    finally:
        random.setstate(state)


def test_gradvac_leaves_pairs_with_a_gradient_of_zero_alone() -> None:
    gradients, targets = np.array([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]]), np.zeros((3, 3))
    turned = vaccinate(gradients @ gradients.T, targets, 0.5)
    assert (turned[1] == [0, 1, 0]).all()
    assert (turned[:, 1] == [0, 1, 0]).all()
    assert (targets[1] == 0).all()
    assert (targets[:, 1] == 0).all()
    assert targets[0, 2] < 0


@pytest.mark.parametrize(("experts", "digits"), [(2, 1), (3, 2), (4, 2), (8, 3), (1, 1)])
def test_each_expert_has_the_binary_digits_of_its_number(experts: int, digits: int) -> None:
    codes = binary_codes(experts, digits)
    assert codes.dtype == torch.bool
    written = ["".join("01"[bit] for bit in code) for code in codes[0].tolist()]
    assert written == [format(number, f"0{digits}b") for number in range(experts)]
