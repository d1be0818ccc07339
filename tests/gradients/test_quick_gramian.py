"""Float32 products where they are sure enough, float64 where a sign or a solve hangs on them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from libmtl_recon.gradients import gramian, quick_gramian
from libmtl_recon.weighting.gradops import gradops_weights


def rows(tasks: int, seed: int, mixed: float) -> torch.Tensor:
    """Gradients with a common part, of lengths over six orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(tasks, 6000, generator=generator)
    own += mixed * torch.randn(1, 6000, generator=generator)
    return own * torch.logspace(-3, 3, tasks)[:, None]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 999), st.sampled_from([-0.3, 0.0, 0.3, 20.0]))
def test_the_signs_and_the_weights_are_those_of_float64(
    tasks: int, seed: int, mixed: float
) -> None:
    gradients = rows(tasks, seed, mixed)
    exact, quick = gramian(gradients), quick_gramian(gradients)
    assert torch.equal(exact < 0, quick < 0)
    lengths = exact.diagonal().sqrt()
    assert float(((exact - quick) / lengths / lengths[:, None]).abs().max()) < 1e-6
    wanted, found = gradops_weights(exact, -1.0), gradops_weights(quick, -1.0)
    torch.testing.assert_close(found * lengths, wanted * lengths, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["parallel", "orthogonal", "zero", "float64", "bfloat16"])
def test_where_rounding_could_decide_it_is_exact(case: str) -> None:
    gradients = rows(3, 1, 0.3)
    if case == "parallel":
        gradients[2] = 3 * gradients[0] - gradients[1]
    elif case == "orthogonal":
        gradients[:] = 0
        gradients[0, :10], gradients[1, 10:20], gradients[2] = 1, 1, 1
    elif case == "zero":
        gradients[1] = 0
    else:
        gradients = gradients.to(getattr(torch, case))
    assert torch.equal(quick_gramian(gradients), gramian(gradients))


def test_what_is_not_finite_stays_so() -> None:
    gradients = rows(3, 1, 0.3)
    gradients[1, 5] = float("nan")
    assert quick_gramian(gradients).diagonal().isnan().tolist() == [False, True, False]
