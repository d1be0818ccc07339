"""The update after a recording, where one backward pass of the weighted sum is not enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients import Record, gramian, recording, task_gradients
from libmtl_recon.gradients.combine import combine


def recorded(
    network: nn.Module, x: Tensor, losses: Callable[[Tensor], list[Tensor]], way: str
) -> tuple[Record, Tensor]:
    for parameter in network.parameters():
        parameter.grad = None
    with recording(network, way=way) as record:
        found = losses(network(x))
    return record, record.gramian(found)


def update(network: nn.Module) -> Tensor:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.cat([gradient.to_dense().flatten() for gradient in gradients])


def test_gradients_that_cancel_are_combined_in_float64() -> None:
    torch.manual_seed(0)
    network = nn.Linear(300, 200)
    x, target = torch.randn(4, 300), torch.randn(4, 200)

    def losses(z: Tensor) -> list[Tensor]:
        return [(z * target).sum(), -(z * (target + 1e-4 * target.flip(0))).sum()]

    rows = task_gradients(losses(network(x)), list(network.parameters()))
    weights = torch.ones(2, dtype=torch.float64)
    record, found = recorded(network, x, losses, "ghost")
    record.backward(weights)
    assert torch.equal(update(network), combine(weights, rows, found))
    # Weights that do not make them cancel need no rows.
    record, _ = recorded(network, x, losses, "ghost")
    passes: list[Any] = []
    record._rows.fill_apart = lambda *args: passes.append(args)  # type: ignore[assignment,method-assign]
    record.backward(torch.tensor([1.0, -1.0]))
    assert not passes


def test_weights_beyond_float32_are_combined_in_float64() -> None:
    network = nn.Linear(300, 200)
    torch.manual_seed(0)
    x, target = torch.randn(4, 300), torch.randn(4, 200)

    def losses(z: Tensor) -> list[Tensor]:
        return [(z * target).sum() * 1e-30, (z * target.flip(0)).sum()]

    record, _ = recorded(network, x, losses, "ghost")
    record.backward(torch.tensor([1e40, 0.0], dtype=torch.float64))
    rows = task_gradients(losses(network(x)), list(network.parameters()))
    torch.testing.assert_close(update(network), (rows[0].double() * 1e40).float())


class Clipped(torch.autograd.Function):
    """Not linear: of a sum of gradients it makes something else than the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clamp(-0.5, 0.5)


class WithFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(300, 200)

    def forward(self, x: Tensor) -> Tensor:
        return Clipped.apply(self.layer(x))


def hooked(kind: str) -> nn.Module:
    network = nn.Sequential(nn.Linear(300, 200), nn.Tanh())
    if kind == "function":
        return WithFunction()
    if kind == "module":
        network[1].register_full_backward_hook(
            lambda module, below, above: (below[0].clamp(-0.5, 0.5),)
        )
    elif kind == "parameter":
        network[0].weight.register_hook(lambda gradient: gradient.clamp(-0.5, 0.5))
    else:
        network[0].bias.register_post_accumulate_grad_hook(lambda parameter: None)
    return network


@pytest.mark.parametrize("kind", ["function", "module", "parameter", "accumulated"])
def test_what_need_not_be_linear_is_asked_once_per_task(kind: str) -> None:
    torch.manual_seed(0)
    network = hooked(kind).double()
    x, target = torch.randn(4, 300).double(), torch.randn(4, 200).double()

    def losses(z: Tensor) -> list[Tensor]:
        return [(z * target).sum(), (z * target.flip(0)).sum()]

    weights = torch.tensor([2.0, 3.0], dtype=torch.float64)
    rows = task_gradients(losses(network(x)), list(network.parameters()))
    record, found = recorded(network, x, losses, "auto")
    record.backward(weights)
    torch.testing.assert_close(found, gramian(rows))
    torch.testing.assert_close(update(network), weights @ rows)
    assert {way.way for way in record.ways} == {"rows"}
    assert all("may not be linear in the gradient" in way.reason for way in record.ways)


def test_sparse_gradients_stay_sparse() -> None:
    for way in ("stored", "ghost", "auto"):
        torch.manual_seed(0)
        network = nn.Embedding(1000, 8, sparse=True)
        x = torch.tensor([3, 5, 3])
        target = torch.randn(2, 3, 8)

        def losses(z: Tensor, target: Tensor = target) -> list[Tensor]:
            return [(z * one).sum() for one in target]

        record, _ = recorded(network, x, losses, way)
        record.backward(torch.tensor([1.0, 2.0]))
        gradient = network.weight.grad
        assert gradient is not None
        assert gradient.is_sparse
        whole = torch.zeros(1000, 8).index_add_(0, x, target[0] + 2 * target[1])
        torch.testing.assert_close(gradient.to_dense(), whole)


def test_a_reentrant_checkpoint_is_refused() -> None:
    block = nn.Linear(5, 5)
    network = nn.Sequential(nn.Linear(5, 5), block)

    def forward(x: Tensor) -> Tensor:
        out: Tensor = checkpoint(block, network[0](x), use_reentrant=True)
        return out

    for way in ("stored", "ghost", "auto"):
        with recording(network, way=way) as record:
            z = forward(torch.randn(2, 5))
        with pytest.raises(ReconError, match=r"use_reentrant=True, which hides the parameters"):
            record.gramian([z.sum(), z.sin().sum()])


def test_gradients_of_heads_are_found_once_where_products_are_taken_again() -> None:
    torch.manual_seed(0)
    network, head = nn.Linear(300, 200), nn.Linear(200, 1)
    x = torch.randn(4, 300) + 1e4

    def losses(z: Tensor) -> list[Tensor]:
        return [head(z).sum(), head(z * 1.001).sum()]

    expected = torch.autograd.grad(sum(losses(network(x))), head.weight)[0]
    record, _ = recorded(network, x, losses, "ghost")
    assert record.exact
    record.backward(torch.ones(2))
    torch.testing.assert_close(head.weight.grad, expected)
    head.weight.grad = None


def test_a_functional_use_keeps_its_update() -> None:
    weight = nn.Parameter(torch.randn(200, 300))
    network = nn.Module()
    network.weight = weight
    x = torch.randn(4, 300)
    with recording(network, way="ghost") as record:
        z = linear(x, weight)
        losses = [z.sum(), z.sin().sum()]
    record.gramian(losses)
    record.backward(torch.ones(2))
    expected = torch.autograd.grad(linear(x, weight).sum() + linear(x, weight).sin().sum(), weight)
    torch.testing.assert_close(weight.grad, expected[0])
