"""Theorem 4.1 of the Recon paper: one step of a split network lowers the summed loss by more."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from libmtl_recon import split_layers
from libmtl_recon.splitting import shared_parameters
from libmtl_recon.splitting.split import split_beside
from libmtl_recon.splitting.task_selection import TaskSelection

TASKS = ("a", "b", "c")
CHOSEN = ["0", "2"]
RATE = 1e-6
SEEDS = st.integers(0, 10_000)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    tanh = nn.Tanh
    return nn.Sequential(nn.Linear(4, 5), tanh(), nn.Linear(5, 5), tanh(), nn.Linear(5, 3)).double()


def losses(net: nn.Module, seed: int) -> list[Tensor]:
    """Return the losses of the tasks, each a regression to its own column."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(8, n, generator=generator, dtype=torch.float64) for n in (4, len(TASKS)))
    out = net(x)
    parts = getattr(out, "parts", [out] * len(TASKS))
    return [(part[:, i] - y[:, i]).square().mean() for i, part in enumerate(parts)]


def after_step(net: nn.Module, seed: int, rate: float) -> float:
    """The summed loss after one step from the tasks' losses weighted by 1/T.

    What the tasks share goes by the mean of their gradients (Eq. 4 of the paper), each task's own
    copies by that task's (Eq. 3).
    """
    shared = {id(parameter) for parameter in shared_parameters(net)}
    gradients = torch.autograd.grad(sum(losses(net, seed)), list(net.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter -= rate * gradient * (1 / len(TASKS) if id(parameter) in shared else 1)
        return float(sum(losses(net, seed)))


def layer_gradients(net: nn.Module, seed: int, layer: str) -> Tensor:
    """The tasks' gradients of one layer of the plain network, ``[T, n]``."""
    own = list(net.get_submodule(layer).parameters())
    rows = [torch.autograd.grad(loss, own, retain_graph=True) for loss in losses(net, seed)]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_a_step_gains_the_first_order_amount_of_the_split_layers(seed: int) -> None:
    plain = network(seed)
    split = split_layers(copy.deepcopy(plain), CHOSEN, TASKS)
    predicted = 0.0
    for layer in CHOSEN:
        g = layer_gradients(plain, seed, layer)
        # Σᵢ ‖gᵢ‖² - Σᵢ gᵢ · Σⱼ gⱼ / T, which is T times the gradients' variance: never negative.
        predicted += float(g.square().sum() - g.sum(0).square().sum() / len(TASKS))
    gained = after_step(plain, seed, RATE) - after_step(split, seed, RATE)
    assert gained > 0
    assert gained == pytest.approx(RATE * predicted, rel=1e-3)


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_without_split_layers_there_is_nothing_to_gain(seed: int) -> None:
    plain = network(seed)
    split = split_beside(copy.deepcopy(plain), [], TaskSelection(TASKS))
    assert after_step(split, seed, RATE) == after_step(plain, seed, RATE)


def test_tasks_that_agree_gain_nothing() -> None:
    """Equal gradients of every task are their mean."""
    torch.manual_seed(0)
    plain = nn.Linear(4, 1).double()
    split = split_layers(copy.deepcopy(plain), [""], TASKS)
    x, y = torch.randn(6, 4).double(), torch.randn(6, 1).double()
    rates, left = {plain: 1 / len(TASKS), split: 1.0}, []
    for net, weight in rates.items():
        out = net(x)
        parts = getattr(out, "parts", [out] * len(TASKS))
        sum((part - y).square().mean() for part in parts).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter -= RATE * weight * parameter.grad
            out = net(x)
        left.append([float((p - y).square().mean()) for p in getattr(out, "parts", [out])])
    assert left[1] == pytest.approx(left[0] * len(TASKS), rel=1e-14)
