from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from libmtl_recon import UsageError
from libmtl_recon.gradients import (
    TaskRows,
    cosines,
    exact_device,
    gramian,
    isometric_rows,
    layer_gramians,
    scatter_gradient,
    task_gradients,
)


def small_problem() -> tuple[nn.Module, nn.ModuleList, torch.Tensor]:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(3)).double()
    return trunk, heads, torch.randn(6, 5, dtype=torch.float64)


def losses_of(trunk: nn.Module, heads: nn.ModuleList, x: torch.Tensor) -> list[torch.Tensor]:
    z = trunk(x)
    return [(head(z) - index).square().mean() for index, head in enumerate(heads)]


def test_rows_are_the_tasks_gradients_and_heads_get_their_own() -> None:
    trunk, heads, x = small_problem()
    shared, specific = list(trunk.parameters()), list(heads.parameters())
    rows = task_gradients(losses_of(trunk, heads, x), shared, specific)
    for task, head in enumerate(heads):
        expected = torch.autograd.grad(
            losses_of(trunk, heads, x)[task], [*shared, *head.parameters()]
        )
        torch.testing.assert_close(
            rows[task], torch.cat([g.flatten() for g in expected[: len(shared)]]), rtol=0, atol=0
        )
        for parameter, gradient in zip(head.parameters(), expected[len(shared) :], strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in shared)


def test_frozen_and_unreached_parameters_are_zero_columns() -> None:
    trunk, heads, x = small_problem()
    trunk[0].weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
    rows = task_gradients(losses_of(trunk, heads, x), [*trunk.parameters(), unused])
    assert rows.shape == (3, 5 * 7 + 7 + 7 * 4 + 4 + 2)
    assert not rows[:, : 5 * 7].any()
    assert not rows[:, -2:].any()
    assert rows[:, 5 * 7 : -2].any(dim=1).all()


def test_writes_into_a_given_matrix() -> None:
    trunk, heads, x = small_problem()
    shared = list(trunk.parameters())
    expected = task_gradients(losses_of(trunk, heads, x), shared)
    out = torch.full_like(expected, float("nan"))
    assert task_gradients(losses_of(trunk, heads, x), shared, out=out) is out
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_scatter_gives_each_parameter_its_part_and_frozen_ones_none() -> None:
    trunk, _, _ = small_problem()
    trunk[0].bias.requires_grad_(False)
    shared = list(trunk.parameters())
    vector = torch.arange(sum(p.numel() for p in shared), dtype=torch.float64)
    scatter_gradient(vector, shared)
    assert trunk[0].bias.grad is None
    assert trunk[0].weight.grad.flatten().tolist() == vector[:35].tolist()
    assert trunk[2].bias.grad.tolist() == vector[-4:].tolist()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gramians_are_float64_sums(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    rows = torch.randn(3, 200_000).to(dtype)
    exact = rows.double().numpy() @ rows.double().numpy().T
    np.testing.assert_allclose(gramian(rows).numpy(), exact, rtol=1e-12, atol=1e-9)
    widths = [1, 70_000, 129_999]
    layers = layer_gramians(rows, widths)
    # Those of layers are of products in float32, if the gradients are.
    close = (
        {"rtol": 2e-6, "atol": 1e-1} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-8}
    )
    torch.testing.assert_close(layers.sum(dim=0), gramian(rows), **close)
    outer = torch.outer(rows[:, 0], rows[:, 0]) if dtype == torch.float32 else None
    exact = np.outer(*[rows[:, 0].double()] * 2) if outer is None else outer.double().numpy()
    np.testing.assert_allclose(layers[0].numpy(), exact, rtol=1e-15)


@pytest.mark.parametrize("dimension", [2, 20])  # fewer than vectors: dependent ones
def test_isometric_rows_have_the_same_inner_products(dimension: int) -> None:
    torch.manual_seed(3)
    vectors = torch.randn(5, dimension, dtype=torch.float64)
    vectors *= torch.tensor([1e-9, 1.0, 1e6, 0.0, 3.0])[:, None]
    rows = isometric_rows(gramian(vectors))
    assert rows.shape == (5, 5)
    scale = vectors.norm(dim=1)
    error = (rows @ rows.T - vectors @ vectors.T).abs()
    assert (error <= 1e-14 * scale * scale[:, None]).all()


def test_cosines_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [-3.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    found = cosines(gramian(rows))
    assert found[:2].tolist() == [-1.0, 0.0]  # pairs (0, 1), (0, 2)
    assert torch.isnan(found[[2, 4, 5]]).all()  # the pairs with the zero row
    assert cosines(gramian(1e-200 * rows.double()))[0] != 0


def test_cosines_stay_in_range() -> None:
    torch.manual_seed(2)
    row = torch.randn(1000, dtype=torch.float64)
    found = cosines(gramian(torch.stack([row, row * 1.7, -row * 0.3])))
    assert found.abs().max() <= 1.0


@pytest.mark.parametrize(("device", "kept"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")])
def test_float64_is_kept_where_there_is_one(device: str, kept: str) -> None:
    assert exact_device(torch.device(device)) == torch.device(kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e25])
def test_layer_gramians_are_close_for_any_lengths(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(5, 10_000, generator=generator) * torch.logspace(-3, 3, 5)[:, None]
    rows = (rows * scale).to(dtype)
    widths = [1, 2048, 4099, 3852]
    found = layer_gramians(rows, widths)
    for part, matrix in zip(rows.double().split(widths, dim=1), found, strict=True):
        lengths = part.norm(dim=1)
        off = (matrix - part @ part.T).abs() / lengths / lengths[:, None]
        assert float(off.max()) < 2e-6


def test_layer_gramians_of_zero_gradients_are_zero() -> None:
    rows = torch.ones(2, 5000)
    rows[1] = 0
    found = layer_gramians(rows, [3000, 2000])
    assert found.tolist() == [[[3000, 0], [0, 0]], [[2000, 0], [0, 0]]]


def test_what_does_not_fit_is_named() -> None:
    shared = [torch.zeros(3, requires_grad=True), torch.zeros(2, requires_grad=True)]
    losses = [shared[0].sum(), shared[1].sum()]
    with pytest.raises(UsageError, match="shared must be the parameters that the tasks share"):
        task_gradients(losses, [])
    with pytest.raises(
        UsageError, match=r"losses must be scalars, .* \(got 'one of shape \[3\]'\)"
    ):
        task_gradients([losses[0], 2 * shared[0]], shared)
    with pytest.raises(UsageError, match=r"out must have the shape \[2, 5\]"):
        task_gradients(losses, shared, out=torch.zeros(2, 4))
    for assign in (scatter_gradient, TaskRows().scatter):
        with pytest.raises(UsageError, match=r"vector must have the shape \[5\]"):
            assign(torch.zeros(4), shared)
    with pytest.raises(UsageError, match=r"widths must add up to the columns .* \[2, 5\]"):
        layer_gramians(torch.zeros(2, 5), [3, 1])
    assert [parameter.grad for parameter in shared] == [None, None]
