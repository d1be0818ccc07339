"""The arithmetic of the patched weightings, against their formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import UsageError
from libmtl_recon.integrations.libmtl.patches.architectures import binary_codes
from libmtl_recon.integrations.libmtl.patches.weightings import gls
from libmtl_recon.weighting.gls import geometric_weights
from libmtl_recon.weighting.least_norm import least_norm_weights


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6))
def test_gls_has_the_gradient_of_the_geometric_mean(values: list[float]) -> None:
    losses = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (losses.prod() ** (1 / len(values))).backward()
    torch.testing.assert_close(geometric_weights(losses.detach()), losses.grad)


def test_gls_stays_finite_where_the_product_does_not() -> None:
    for losses in (torch.full((5,), 1e-30), torch.full((5,), 1e30)):
        torch.testing.assert_close(geometric_weights(losses), torch.full((5,), 0.2))


def test_gls_leaves_all_as_it_is_where_a_loss_is_zero() -> None:
    assert geometric_weights(torch.tensor([0.0, 2.0, 1.0])).tolist() == [0, 0, 0]


def test_gls_names_a_negative_loss() -> None:
    with pytest.raises(UsageError, match=r"GLS needs losses of at least 0.*-1\.0"):
        gls(None, torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize(("experts", "digits"), [(2, 1), (3, 2), (4, 2), (8, 3), (1, 1)])
def test_each_expert_has_the_binary_digits_of_its_number(experts: int, digits: int) -> None:
    codes = binary_codes(experts, digits)
    assert codes.dtype == torch.bool
    written = ["".join("01"[bit] for bit in code) for code in codes[0].tolist()]
    assert written == [format(number, f"0{digits}b") for number in range(experts)]


@given(
    tasks=st.integers(1, 12),
    width=st.integers(1, 30),
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0.0, 3.0),
    twins=st.booleans(),
)
def test_mgda_has_the_combination_of_least_norm(
    tasks: int, width: int, seed: int, spread: float, twins: bool
) -> None:
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, width)) * 10 ** rng.uniform(-spread, spread, (tasks, 1))
    if twins:
        gradients[-1] = gradients[0]
    products = gradients @ gradients.T
    weights = least_norm_weights(products)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    # The condition of optimality: no gradient lies less far along the combination than itself.
    norm = weights @ products @ weights
    assert (products @ weights).min() >= norm - 1e-9 * products.diagonal().max()


def test_mgda_takes_all_alike_where_there_is_no_gradient() -> None:
    assert least_norm_weights(np.zeros((4, 4))).tolist() == [0.25] * 4


def test_mgda_stops_at_a_gradient_of_zero() -> None:
    gradients = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
    assert least_norm_weights(gradients @ gradients.T).tolist() == [0, 1, 0]
