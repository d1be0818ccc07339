"""Rows of gradients that are sparse, complex, frozen, absent, or of several dtypes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from libmtl_recon.conflicts.counter import ConflictCounter
from libmtl_recon.conflicts.layers import layers_of, owned_parameters
from libmtl_recon.gradients import (
    TaskRows,
    cosines,
    gramian,
    layer_gramians,
    quick_gramian,
    scatter_gradient,
    task_gradients,
)
from libmtl_recon.gradients.combine import combine

# --- sparse gradients -----------------------------------------------------------------------

IDS = torch.tensor([[1, 4, 4], [2, 1, 0]])


def tables(*, sparse: bool) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "user": nn.Embedding(9, 3, sparse=sparse),
            "item": nn.EmbeddingBag(7, 2, mode="sum", sparse=sparse),
            "top": nn.Linear(5, 2),
        }
    ).double()


def losses_of(net: nn.ModuleDict) -> list[Tensor]:
    """The second loss reaches other rows, and the third no table."""
    found = []
    for shift in (0, 2):
        features = torch.cat([net["user"](IDS + shift).mean(1), net["item"](IDS + shift)], dim=1)
        found.append(net["top"](features).square().mean())
    return [*found, net["top"].weight.square().sum()]


def filled(net: nn.ModuleDict, rows: TaskRows, **how: Any) -> Tensor:
    rows.begin()
    return rows.fill([([loss], None) for loss in losses_of(net)], list(net.parameters()), **how)


def test_rows_of_sparse_gradients_are_those_of_dense_ones() -> None:
    wanted = task_gradients(
        losses_of(tables(sparse=False)), list(tables(sparse=False).parameters())
    )
    dense, sparse = tables(sparse=False), tables(sparse=True)
    wanted = task_gradients(losses_of(dense), list(dense.parameters()))
    assert torch.equal(task_gradients(losses_of(sparse), list(sparse.parameters())), wanted)
    rows = TaskRows()
    for accumulate in (True, False, True):  # the matrix is used again
        assert torch.equal(filled(sparse, rows, accumulate=accumulate), wanted)


def test_a_sum_of_sparse_gradients_is_assigned_sparse() -> None:
    net, rows = tables(sparse=True), TaskRows()
    weights = torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64)
    update = weights @ filled(net, rows, accumulate=True)
    rows.scatter(update, list(net.parameters()))
    # The rows that any task looked up, also where its weight is zero.
    user, item = net["user"].weight.grad, net["item"].weight.grad
    assert user.is_coalesced()
    assert user.indices().tolist() == [[0, 1, 2, 3, 4, 6]]
    assert item.indices().tolist() == [[0, 1, 2, 3, 4, 6]]
    assert torch.equal(user.to_dense().flatten(), update[:27])
    assert torch.equal(item.to_dense().flatten(), update[27:41])
    assert not net["top"].weight.grad.is_sparse
    torch.optim.SparseAdam([net["user"].weight, net["item"].weight]).step()


def test_no_number_is_lost_that_no_task_of_this_step_has_looked_up() -> None:
    # A weighting may hand out a mean over earlier steps.
    net, rows = tables(sparse=True), TaskRows()
    update = torch.zeros_like(filled(net, rows, accumulate=True)[0])
    update[8 * 3] = 5.0
    rows.scatter(update, list(net.parameters()))
    assert net["user"].weight.grad.indices().tolist() == [[0, 1, 2, 3, 4, 6, 8]]
    assert torch.equal(net["user"].weight.grad.to_dense().flatten(), update[:27])


def test_a_parameter_with_a_dense_gradient_too_gets_a_dense_one() -> None:
    net, rows = tables(sparse=True), TaskRows()
    table, shared = net["user"], list(net.parameters())
    for order in (1, -1):
        losses = [table(IDS).sum(), table.weight.square().sum()][::order]
        net.zero_grad()
        rows.begin()
        update = rows.fill([([one], None) for one in losses], shared, accumulate=True).sum(0)
        rows.scatter(update, shared)
        assert not table.weight.grad.is_sparse
        assert torch.equal(table.weight.grad.flatten(), update[:27])


def test_sparse_gradients_of_what_is_not_shared_add_up() -> None:
    net, other = tables(sparse=True), tables(sparse=False)
    for one in (net, other):
        for _ in range(2):
            task_gradients(losses_of(one), list(one["top"].parameters()), [one["user"].weight])
    found, wanted = net["user"].weight.grad, other["user"].weight.grad
    assert found.is_sparse
    torch.testing.assert_close(found.to_dense(), wanted, rtol=1e-15, atol=0)


# --- complex parameters ---------------------------------------------------------------------


class Spectral(nn.Module):
    """A layer with complex weights; or the same with their real and imaginary parts."""

    def __init__(self, *, real: bool, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.real = real
        self.first = nn.Linear(3, 5, dtype=dtype)  # 15 and 5: the next begins at an odd column
        self.odd = nn.Parameter(torch.ones((), dtype=dtype))
        self.mix, self.unreached = nn.Module(), nn.Module()
        self.mix.weight = self.parameter(torch.randn(5, 4, 2, dtype=dtype))
        self.mix.bias = self.parameter(torch.randn(4, 2, dtype=dtype))
        self.unreached.weight = self.parameter(torch.randn(2, 2, dtype=dtype))
        self.last = nn.Linear(8, 3, dtype=dtype)

    def parameter(self, parts: Tensor) -> nn.Parameter:
        return nn.Parameter(parts if self.real else torch.view_as_complex(parts))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.mix.weight, self.mix.bias
        if self.real:
            weight, bias = torch.view_as_complex(weight), torch.view_as_complex(bias)
        hidden = torch.tanh(self.first(x)) * self.odd
        # The gradient of a conjugate is a conjugate that torch has not yet computed.
        mixed = hidden.to(weight.dtype) @ weight + bias.conj()
        return self.last(torch.view_as_real(mixed).flatten(1))


def spectral_losses(net: nn.Module, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    x = torch.randn(6, 3, dtype=dtype, generator=torch.Generator().manual_seed(2))
    out = net(x)
    return [(out[:, i] - i).square().mean() for i in range(3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["task_gradients", "hooks", "autograd"])
def test_rows_are_those_of_the_real_and_imaginary_parts(how: str, dtype: torch.dtype) -> None:
    found = []
    for real in (False, True):
        net = Spectral(real=real, dtype=dtype)
        shared, losses = list(net.parameters()), spectral_losses(net, dtype)
        if how == "task_gradients":
            found.append(task_gradients(losses, shared))
        else:
            roots = [([loss], None) for loss in losses]
            rows = TaskRows().fill(roots, shared, accumulate=how == "hooks")  # type: ignore[arg-type]
            found.append(rows)
    assert found[0].dtype == dtype
    assert torch.equal(*found)
    assert (found[0][:, 21:61] != 0).all()


@pytest.mark.parametrize("library", [False, True])
def test_an_assigned_gradient_steps_as_that_of_the_parts_does(library: bool) -> None:
    trained = []
    for real in (False, True):
        net, rows = Spectral(real=real), TaskRows()
        shared = list(net.parameters())
        optimizer = torch.optim.Adam(shared, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(2):  # they add up
                losses = spectral_losses(net)
                if library:
                    scatter_gradient(task_gradients(losses, shared).mean(0), shared)
                else:
                    rows.begin()
                    roots = [([loss], None) for loss in losses]
                    found = rows.fill(roots, shared, accumulate=True)  # type: ignore[arg-type]
                    rows.scatter(found.mean(0), shared)
            optimizer.step()
        parts = [torch.view_as_real(p) if p.is_complex() else p for p in shared]
        trained.append(torch.cat([p.detach().flatten() for p in parts]))
    assert torch.equal(*trained)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_inner_products_of_complex_rows_are_real(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    rows = torch.randn(4, 5000, dtype=dtype)
    rows = torch.conj(rows)  # not yet computed
    plain = rows.resolve_conj().to(torch.complex128).numpy()
    wanted = np.real(plain @ plain.conj().T)
    close = {"rtol": 0, "atol": 1e-2 if dtype == torch.complex64 else 1e-9}
    for function in (gramian, quick_gramian):
        np.testing.assert_allclose(function(rows).numpy(), wanted, **close)  # type: ignore[operator]
    layers = layer_gramians(rows, [2000, 3000])
    part = plain[:, :2000]
    np.testing.assert_allclose(layers[0].numpy(), np.real(part @ part.conj().T), **close)
    np.testing.assert_allclose(layers.sum(0).numpy(), wanted, **close)
    lengths = np.sqrt(wanted.diagonal())
    expected = [
        wanted[i, j] / lengths[i] / lengths[j] for i, j in itertools.combinations(range(4), 2)
    ]
    whole = torch.from_numpy(plain @ plain.conj().T)
    np.testing.assert_allclose(cosines(whole).numpy(), expected, rtol=1e-12)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    for given in (None, gramian(rows)):
        update = combine(weights, rows, given)
        assert update.dtype == dtype
        np.testing.assert_allclose(update.numpy(), weights.numpy() @ plain, rtol=1e-3, atol=1e-5)


def test_a_complex_layer_has_twice_as_many_numbers_and_is_scored_by_them() -> None:
    profiles = []
    for real in (False, True):
        net = Spectral(real=real)
        layers = layers_of(net)
        assert [layer.parameters for layer in layers] == [1, 20, 48, 4, 27]
        assert layers[2].shapes == ((5, 4, 2), (4, 2))
        counter = ConflictCounter(layers, ["a", "b", "c"])
        shared = [p for _, _, own in owned_parameters(net) for p in own]
        counter.record(task_gradients(spectral_losses(net), shared))
        profiles.append(counter.profile({}))
    assert (profiles[0].counts == profiles[1].counts).all()
    assert (profiles[0].undefined == profiles[1].undefined).all()
    assert profiles[0].undefined.sum() == 3  # the unreached layer's


# --- other parameters -----------------------------------------------------------------------


def test_rows_of_several_dtypes_come_back_in_each() -> None:
    half = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    whole = nn.Parameter(torch.ones(3, 2).T)  # not contiguous
    pair = nn.Parameter(torch.ones(1, dtype=torch.complex64))
    shared, rows = [half, whole, pair], TaskRows()
    for times in (1, 2):
        rows.begin()
        loss = half.float().sum() + (whole * torch.arange(6.0).view(2, 3)).sum() + pair.abs().sum()
        found = rows.fill([([loss], None)], shared, accumulate=True)
        assert found.dtype == torch.float32
        assert found.tolist() == [[1, 1, 0, 1, 2, 3, 4, 5, 1, 0]]
        rows.scatter(found[0].clone(), shared)
        assert half.grad.tolist() == [times, times]
        assert torch.equal(whole.grad, times * torch.arange(6.0).view(2, 3))
        assert pair.grad.tolist() == [times]
    assert [p.grad.dtype for p in shared] == [p.dtype for p in shared]


def test_a_loss_without_a_graph_has_a_gradient_of_zero() -> None:
    head = nn.Parameter(torch.ones(2))
    shared = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1), requires_grad=False)]
    constant = torch.tensor(2.0)
    rows = task_gradients([constant, shared[0].sum() + head.sum(), constant], shared, [head])
    assert rows.tolist() == [[0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert head.grad.tolist() == [1, 1]
    assert task_gradients([constant], shared).tolist() == [[0, 0, 0, 0]]
    assert task_gradients(torch.ones(2), shared[1:]).tolist() == [[0], [0]]
