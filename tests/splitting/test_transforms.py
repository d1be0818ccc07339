"""torch.func's transforms over activations that differ between tasks, against each task alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_names import apart
from torch import Tensor, func, nn

from libmtl_recon import ReconError, TaskTensor, extract_task
from libmtl_recon.splitting import per_task_calls

TASKS = ["digit", "article"]

# Torch's own, in forward-mode derivatives.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def cubes(row: Tensor) -> Tensor:
    return (row**3).sum()


SHARED = torch.arange(3.0, dtype=torch.float64)
# Of a network's output ``[B, 3]``.
OF_OUTPUTS: dict[str, Callable[[Any], Any]] = {
    "vmap": torch.vmap(lambda row: row * 2 + row.sum()),
    "vmap over columns": torch.vmap(lambda column: column.cumsum(0), in_dims=1, out_dims=1),
    "vmap with what is shared": lambda out: torch.vmap(torch.dot, (0, None))(out, SHARED),
    "vmap of two": lambda out: torch.vmap(torch.dot)(out, out.flip(0)),
    "vmap of a dict": lambda out: torch.vmap(lambda row: {"a": row[0], "b": row})(out)["b"],
    "vmap in chunks": torch.vmap(torch.sin, chunk_size=2),
    "vmap in vmap": torch.vmap(torch.vmap(torch.exp)),
    "grad": func.grad(cubes),
    "grad and value": lambda out: func.grad_and_value(cubes)(out)[1],
    "vmap of grad": torch.vmap(func.grad(cubes)),
    "jacrev": func.jacrev(torch.sin),
    "jacfwd": func.jacfwd(torch.sin),
    "hessian": func.hessian(cubes),
    "jvp": lambda out: func.jvp(torch.sin, (out,), (out,))[1],
    "vjp": lambda out: func.vjp(torch.sin, out)[1](out)[0],
}  # fmt: skip
# Of a network and its input ``[B, 4]``.
OF_NETWORKS: dict[str, Callable[[Any, Tensor], Any]] = {
    "vmap": lambda net, x: torch.vmap(net)(x),
    "vmap of a layer": lambda net, x: torch.vmap(lambda row: net[2](net[0](row)) * 2)(x),
    "jacrev": lambda net, x: func.jacrev(net)(x[0]),
    "jacfwd": lambda net, x: func.jacfwd(net)(x[0]),
    "jvp": lambda net, x: func.jvp(net, (x,), (x,))[1],
    "vjp": lambda net, x: func.vjp(net, x)[0],
    "hessian": lambda net, x: torch.vmap(func.hessian(lambda row: net(row).square().sum(-1)))(x),
}


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 4, dtype=torch.float64)


@pytest.mark.parametrize("name", OF_OUTPUTS)
def test_over_an_activation_behind_a_split(name: str, x: Tensor) -> None:
    split = apart(network(), ["2"])
    with per_task_calls():
        together = OF_OUTPUTS[name](split(x))
    assert list(together.by_task()) == TASKS
    for task in TASKS:
        alone = OF_OUTPUTS[name](extract_task(split, task)(x))
        torch.testing.assert_close(together[task], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", ["0", "2"])
@pytest.mark.parametrize("name", OF_NETWORKS)
def test_over_a_split_network(name: str, layer: str, x: Tensor) -> None:
    split = apart(network(), [layer])
    with per_task_calls():
        together = OF_NETWORKS[name](split, x)
    for task in TASKS:
        alone = OF_NETWORKS[name](extract_task(split, task), x)
        torch.testing.assert_close(together[task], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OF_OUTPUTS)
def test_over_an_activation_outside_of_the_block_is_refused(name: str, x: Tensor) -> None:
    out = apart(network(), ["2"])(x)
    with pytest.raises(ReconError, match=r"per_task_calls\(\):`.* each value of `\.by_task\(\)`"):
        OF_OUTPUTS[name](out)


@pytest.mark.parametrize("name", OF_NETWORKS)
def test_over_a_network_outside_of_the_block_is_refused(name: str, x: Tensor) -> None:
    split = apart(network(), ["0"])
    with pytest.raises(ReconError, match=r"per_task_calls\(\):`.* each value of `\.by_task\(\)`"):
        OF_NETWORKS[name](split, x)


def test_inside_a_networks_own_code_it_trains(x: Tensor) -> None:
    class PerSample(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.vmap(lambda row: self.two(torch.outer(row, row)).sum(0))(self.one(x))

    split = apart(PerSample().double(), ["one"])
    sum(out.square().sum() for out in split(x).parts).backward()
    expected = 0
    for task in TASKS:
        alone: Any = extract_task(split, task)
        alone(x).square().sum().backward()
        expected = expected + alone.two.weight.grad
        own = dict(split.named_parameters())[f"one.tasks.{task}.weight"]
        torch.testing.assert_close(own.grad, alone.one.weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(split.two.weight.grad, expected, rtol=1e-12, atol=1e-12)


def test_what_would_take_it_for_a_constant_is_refused(x: Tensor) -> None:
    split = apart(network(), ["2"])
    for act in (
        lambda: func.linearize(torch.sin, split(x).detach()),
        lambda: func.linearize(split, x),
    ):
        with (
            per_task_calls(),
            pytest.raises(ReconError, match=r"torch\.func\.linearize cannot trace"),
        ):
            act()


def test_below_the_torch_functions_the_way_out_is_named(x: Tensor) -> None:
    both = TaskTensor([x, x + 1], tasks=TASKS)
    with pytest.raises(ReconError, match=r"each value of `\.by_task\(\)`"):
        func.functionalize(torch.sin)(both)
