"""What is computed again in a backward pass is computed for the tasks that it was computed for."""

from __future__ import annotations

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from plain import total
from sample_networks import rows
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from libmtl_recon import ReconError
from libmtl_recon.splitting import only_task, split_layers, task_parameters


class Recomputes(nn.Module):
    """Its inner layers save nothing for the backward pass, or what others save."""

    def __init__(self, again: bool, reentrant: bool = False) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.again, self.reentrant = again, reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = (
            checkpoint(self._inner, x, use_reentrant=self.reentrant)
            if self.again
            else self._inner(x)
        )
        return self.last(x)

    def _inner(self, x: Tensor) -> Tensor:
        return torch.sin(torch.tanh(self.inner(x)))


def twins(layers: list[str]) -> list[nn.Module]:
    """A split network that recomputes and one that does not, of the same values."""
    torch.manual_seed(3)
    again = Recomputes(again=True).double()
    again = split_layers(again, layers, ["a", "b"])
    with torch.no_grad():
        for value in task_parameters(again, "b").values():
            value.add_(0.5)
    plain = copy.deepcopy(again)
    plain.again = False
    return [again, plain]


def assert_equal_gradients(networks: list[nn.Module]) -> None:
    ours, theirs = (dict(network.named_parameters()) for network in networks)
    for name, parameter in theirs.items():
        found = ours[name].grad
        assert (found is None) == (parameter.grad is None), name
        assert found is None or torch.equal(found, parameter.grad), name


@pytest.mark.parametrize("layers", [["inner"], ["first"], ["first", "inner"]])
@pytest.mark.parametrize("task", ["a", "b"])
def test_one_task_after_its_block_has_ended(task: str, layers: list[str]) -> None:
    networks = twins(layers)
    for network in networks:
        with only_task(network, task):
            loss = network(rows().double()).square().sum()
        loss.backward()
    assert_equal_gradients(networks)


def test_all_tasks_inside_the_block_of_one() -> None:
    networks = twins(["inner"])
    for network in networks:
        loss = total(list(network(rows().double()).parts))
        with only_task(network, "b"):
            loss.backward()
    assert_equal_gradients(networks)


def test_in_another_thread() -> None:
    """As the autograd engine runs backward passes on a GPU."""
    networks = twins(["inner"])
    with ThreadPoolExecutor(1) as pool:
        for network in networks:
            with only_task(network, "b"):
                loss = network(rows().double()).square().sum()
                pool.submit(loss.backward).result()
    assert_equal_gradients(networks)


@pytest.mark.parametrize("layers", [["inner"], ["first", "inner"]])
def test_split_layers_inside_a_reentrant_checkpoint_are_refused(layers: list[str]) -> None:
    network = split_layers(Recomputes(again=True, reentrant=True), layers, ["a", "b"])
    with pytest.raises(ReconError, match="use_reentrant=False"):
        network(rows())
    with only_task(network, "b"), pytest.raises(ReconError, match="use_reentrant=False"):
        network(rows())


class NormInside(nn.Module):
    """A norm that stays shared, where a reentrant checkpoint shows it one task's plain values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(lambda y: self.norm(self.last(y)), self.first(x), use_reentrant=True)


def test_a_norm_inside_a_reentrant_checkpoint_does_not_mix_the_tasks() -> None:
    network = split_layers(NormInside(), ["first"], ["a", "b"])
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(
        ReconError, match=r"BatchNorm1d behind .* use_reentrant=False; otherwise .*mixed"
    ):
        network(rows())
    with only_task(network, "b"), pytest.raises(ReconError, match="use_reentrant=False"):
        network(rows())
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])
    # Evaluation only reads the statistics.
    assert network.eval()(rows())["a"].shape == (6, 4)
    network = split_layers(NormInside(), ["first"], ["a", "b"], bn="mixed")
    network(rows())
    assert network.norm.num_batches_tracked == 2


def test_the_function_stays_what_it_is_to_others() -> None:
    twins(["inner"])
    assert "use_reentrant" in inspect.signature(checkpoint).parameters
    x = rows().requires_grad_()
    checkpoint(torch.sin, x, use_reentrant=False).sum().backward()
    assert torch.equal(x.grad, x.detach().cos())
