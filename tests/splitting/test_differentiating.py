"""Gradients of, and hooks on, what differs between tasks, as of any tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from sample_networks import rows
from torch import Tensor, nn

from libmtl_recon.splitting import TaskTensor, only_task, shared_parameters, split_layers


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(2)
    split = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    split = split_layers(split, ["2"], ["a", "b"], init="fresh")
    return split, copy.deepcopy(split)


@pytest.mark.parametrize("way", [Tensor.backward, torch.autograd.backward])
def test_a_backward_pass_is_that_of_each_task(way: object) -> None:
    ours, theirs = networks()
    x = rows().double()
    way(ours(x).square().sum())
    sum(part.square().sum() for part in theirs(x).parts).backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=0)


def test_the_graph_is_freed_unless_it_is_to_stay() -> None:
    split, _ = networks()
    loss = split(rows().double()).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    with only_task(split, "b"):
        loss = split(rows().double()).square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_gradients_of_each_task_are_task_tensors() -> None:
    split, _ = networks()
    x, shared = rows().double(), shared_parameters(split)
    found = torch.autograd.grad(split(x).square().sum(), shared)
    for index in range(2):
        expected = torch.autograd.grad(split(x).parts[index].square().sum(), shared)
        for gradient, one in zip(found, expected, strict=True):
            assert type(gradient) is TaskTensor
            assert torch.equal(gradient.parts[index], one)


def test_activations_retain_their_gradients() -> None:
    split, _ = networks()
    inner = split(rows().double())
    assert inner.grad is None
    inner.retain_grad()
    inner.square().sum().backward()
    for part, gradient in zip(inner.parts, inner.grad.parts, strict=True):
        assert torch.equal(gradient, 2 * part)


def test_hooks_see_each_tasks_gradient_until_they_are_removed() -> None:
    split, _ = networks()
    inner = split(rows().double())
    seen: list[Tensor] = []
    handle = inner.register_hook(seen.append)
    inner.square().sum().backward(retain_graph=True)
    assert all(torch.equal(g, 2 * p) for g, p in zip(seen, inner.parts, strict=True))
    handle.remove()
    inner.square().sum().backward()
    assert len(seen) == 2
