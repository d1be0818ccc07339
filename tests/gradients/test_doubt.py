"""Products in float32 know their rounding, and are taken in float64 where it could matter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from libmtl_recon.gradients import recording
from libmtl_recon.gradients.doubt import is_doubtful
from libmtl_recon.gradients.rows import TaskRows
from libmtl_recon.gradients.sweep import Sweep

TASKS = 4


def sweeps(network: nn.Module, x: Tensor, targets: Tensor) -> tuple[Sweep, Tensor, Tensor, bool]:
    """One in float32 and both Gramians; and whether a recording took float64."""
    with recording(network, way="ghost") as record:
        z = network(x)
        losses = [(z.tanh() * target).sum() for target in targets]
    plan = record.plan(losses)
    assert plan.ways[0].way == "products"
    single = Sweep(plan, losses, TaskRows())
    single._is_doubtful = lambda _: False  # type: ignore[method-assign]
    found = single.run()
    exact = Sweep(plan, losses, TaskRows(), exact=True).run()
    assert found is not None
    assert exact is not None
    torch.testing.assert_close(record.gramian(losses), exact if record.exact else found)
    return single, found, exact, record.exact


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("shift", [0.0, 1.0, 10.0, 100.0, 1000.0])
def test_the_rounding_is_known(shift: float, scale: float) -> None:
    # Behind a batch norm, gradients cancel that of an input's mean.
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256))
    x = torch.randn(16, 256) * scale + shift
    single, found, exact, was_exact = sweeps(network, x, torch.randn(TASKS, 16, 256))
    lengths = exact.diagonal().sqrt()
    error = float(((found - exact) / lengths / lengths[:, None]).abs().max())
    told = float((single._errors / exact.diagonal()).max())
    assert error <= told
    assert told > 1e-9  # something was multiplied
    if error > 1e-5:
        assert was_exact


def test_ordinary_gradients_leave_no_doubt() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(256, 256), nn.BatchNorm1d(256))
    *_, was_exact = sweeps(network, torch.randn(16, 256), torch.randn(TASKS, 16, 256))
    assert not was_exact


def test_float64_is_not_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Linear(256, 256).double()
    x = torch.randn(16, 256, dtype=torch.float64) + 1000
    passes = []
    own = Sweep._by_segments
    monkeypatch.setattr(Sweep, "_by_segments", lambda self: passes.append(0) or own(self))
    with recording(network, way="ghost") as record:
        z = network(x)
    record.gramian([z.sum(), (z * 1.001).sum()])
    assert record.exact
    assert len(passes) == 1


EYE = torch.eye(3, dtype=torch.float64)
ERRORS = torch.full((3,), 1e-7, dtype=torch.float64)


def with_cosine(cosine: float) -> Tensor:
    found = EYE * 4 + 2.0 * (1 - EYE)
    found[0, 1] = found[1, 0] = 4 * cosine
    return found


@pytest.mark.parametrize(("cosine", "doubtful"), [(0.1, False), (2e-6, False), (5e-7, True)])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_sign_is_doubtful(cosine: float, sign: float, *, doubtful: bool) -> None:
    assert is_doubtful(with_cosine(sign * cosine), ERRORS) is doubtful


@pytest.mark.parametrize(("apart", "doubtful"), [(0.1, False), (1e-3, True)])
def test_a_solution_is_doubtful(apart: float, *, doubtful: bool) -> None:
    # The least eigenvalue of three vectors with one cosine is 1 - cosine.
    assert is_doubtful(EYE + (1 - apart) * (1 - EYE), ERRORS) is doubtful


def test_what_is_off_by_much_is_doubtful() -> None:
    gramian = EYE + 0.1 * (1 - EYE)
    assert not is_doubtful(gramian, torch.tensor([1e-7, 1e-7, 9e-6], dtype=torch.float64))
    assert is_doubtful(gramian, torch.tensor([1e-7, 1e-7, 1.2e-5], dtype=torch.float64))


def test_a_task_without_a_gradient_leaves_no_doubt() -> None:
    gramian = EYE + 0.5 * (1 - EYE)
    gramian[2] = gramian[:, 2] = 0.0
    assert not is_doubtful(gramian, ERRORS)
    assert not is_doubtful(torch.zeros(3, 3, dtype=torch.float64), ERRORS)


def test_what_is_not_finite_is_doubtful() -> None:
    assert is_doubtful(EYE * torch.nan, ERRORS)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cosine=st.floats(-5e-6, 5e-6).filter(lambda c: abs(c) > 1e-6),
    mean=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_who_conflicts_is_decided_as_in_float64(seed: int, cosine: float, mean: float) -> None:
    torch.manual_seed(seed)
    network = nn.Linear(200, 150, bias=False)
    x = torch.randn(6, 200) + mean
    first, second = torch.randn(2, 6, 150, dtype=torch.float64)
    # The gradients are Δᵀx; the second's Δ is turned so that they have nearly this cosine.
    wide = x.double()
    g, h = first.T @ wide, second.T @ wide
    second = second - first * ((g * h).sum() / g.square().sum())
    h = second.T @ wide
    second = second + first * (cosine * h.norm() / g.norm())
    deltas = torch.stack([first, second]).float()
    with recording(network, way="ghost") as record:
        z = network(x)
        losses = [(z * delta).sum() for delta in deltas]
    found = record.gramian(losses)
    exact = torch.stack([(delta.double().T @ wide).flatten() for delta in deltas])
    wanted = exact @ exact.T
    true = float(wanted[0, 1] / (wanted[0, 0] * wanted[1, 1]).sqrt())
    if abs(true) > 1e-6:
        assert (float(found[0, 1]) > 0) == (true > 0)
    assert record.ways[0].way == "products"
