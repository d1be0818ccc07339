"""The weighted sum: exact to the gradients' own precision where float32 sums would not be."""

from __future__ import annotations

import pytest
import torch

from libmtl_recon import gradops_weights
from libmtl_recon.gradients import combine as combining
from libmtl_recon.gradients import gramian
from libmtl_recon.gradients.combine import combine


def opposed(dtype: torch.dtype, angle: float = 1e-3) -> torch.Tensor:
    """Two gradients nearly opposite: of their sum hardly anything is left."""
    generator = torch.Generator().manual_seed(0)
    first, side = torch.randn(2, 100_000, generator=generator)
    return torch.stack([first, -first + angle * side]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("angle", [1e-3, 1.0])
def test_it_is_the_float64_sum_rounded_once(dtype: torch.dtype, angle: float) -> None:
    gradients = opposed(dtype, angle)
    matrix = gramian(gradients)
    assert matrix.dtype == torch.float64
    wide = gradients.double()
    torch.testing.assert_close(matrix, wide @ wide.T, rtol=1e-12, atol=0)
    weights = gradops_weights(matrix, 0.0)
    update = combine(weights, gradients, matrix)
    assert update.dtype == dtype
    exact = weights @ wide
    off = float((update.double() - exact).norm() / exact.norm())
    assert off <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_update_of_opposed_gradients_conflicts_with_neither(dtype: torch.dtype) -> None:
    gradients = opposed(dtype, angle=0.05)
    matrix = gramian(gradients)
    update = combine(gradops_weights(matrix, 0.0), gradients, matrix).double()
    cosines = gradients.double() @ update / update.norm() / matrix.diagonal().sqrt()
    assert float(cosines.min()) > 0


def test_without_a_gramian_it_is_as_careful() -> None:
    gradients, weights = opposed(torch.float32), torch.tensor([1.0, 1.0], dtype=torch.float64)
    expected = combine(weights, gradients, gramian(gradients))
    torch.testing.assert_close(combine(weights, gradients), expected, rtol=0, atol=0)


def test_gradients_that_do_not_cancel_are_summed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(combining, "_CHUNK", None)  # no chunk may be cut
    gradients = opposed(torch.float32, angle=5.0)
    weights = torch.tensor([0.5, 1.0], dtype=torch.float64)
    update = combine(weights, gradients, gramian(gradients))
    torch.testing.assert_close(update, weights.float() @ gradients)
