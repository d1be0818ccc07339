"""The arithmetic of the mended weightings, against their formulas written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon import UsageError
from libmtl_recon.plugin.mends import gls
from libmtl_recon.plugin.mends.dselect_k import binary_codes


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


@pytest.mark.parametrize(("experts", "digits"), [(2, 1), (3, 2), (4, 2), (8, 3), (1, 1)])
def test_each_expert_has_the_binary_digits_of_its_number(experts: int, digits: int) -> None:
    codes = binary_codes(experts, digits)
    assert codes.dtype == torch.bool
    written = ["".join("01"[bit] for bit in code) for code in codes[0].tolist()]
    assert written == [format(number, f"0{digits}b") for number in range(experts)]
