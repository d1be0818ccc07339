"""Entries of an output that are differentiated for all tasks: refused where it is known."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon import ConflictProbe, ReconError, TaskTensor, gradops_weights, split_layers, step

TASKS = ("a", "b")
FORMS: dict[str, Callable[[list[Tensor]], Any]] = {
    "tuple": tuple,
    "list": list,
    "dict": lambda entries: dict(zip(TASKS, entries, strict=True)),
}
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()


class Network(nn.Module):
    """A trunk, and a head for each of two entries."""

    def __init__(self, form: str = "tuple", entries: int = 2) -> None:
        super().__init__()
        self.trunk, self.form = nn.Linear(3, 4), form
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(entries))
        self.double()

    def forward(self, x: Tensor) -> Any:
        z = self.trunk(x).tanh()
        return FORMS[self.form]([head(z) for head in self.heads])


def made(form: str = "tuple", **how: Any) -> nn.Module:
    torch.manual_seed(0)
    return split_layers(Network(form), ["trunk"], TASKS, **how)


def losses(network: nn.Module) -> list[Any]:
    output = network(X)
    entries = list(output.values()) if isinstance(output, dict) else output
    return [(entry - place).square().mean() for place, entry in enumerate(entries)]


def one_after_the_other(losses: list[Any]) -> None:
    first, second = losses
    first.backward(retain_graph=True)
    second.backward()


WAYS: dict[str, Callable[[list[Any]], Any]] = {
    "sum": lambda losses: sum(losses).backward(),
    "scaled sum": lambda losses: (torch.stack(losses).sum() * 1024).backward(),
    "together": torch.autograd.backward,
    "one by one": one_after_the_other,
    "one tensor for both": lambda losses: (losses[0] * losses[1]).backward(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_losses_of_all_entries_do_not_train_all_copies(form: str, way: str) -> None:
    with pytest.raises(ReconError, match=r"each of the tasks a, b.*with per_task_output=True if"):
        WAYS[way](losses(made(form)))


def test_gradients_of_them_are_refused_and_none_is_added() -> None:
    network = made()
    with pytest.raises(ReconError, match="per_task_output=True"):
        torch.autograd.grad(sum(losses(network)), [network.heads[0].weight])
    with pytest.raises(ReconError, match="per_task_output=True"):
        sum(losses(network)).backward()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_entry_with_a_tasks_name_serves_that_task_alone() -> None:
    with pytest.raises(ReconError, match="per_task_output=True"):
        losses(made("dict"))[0].backward()


@pytest.mark.parametrize("form", FORMS)
def test_step_and_probe_name_the_argument_as_well(form: str) -> None:
    network = made(form)
    with pytest.raises(ReconError, match="split it with per_task_output=True"):
        ConflictProbe(network, TASKS).backward(losses(network))
    with pytest.raises(ReconError, match="split it with per_task_output=True"):
        step(losses(network), network, gradops_weights)
    assert all(parameter.grad is None for parameter in network.parameters())


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("form", FORMS)
def test_each_tasks_own_entry_trains_its_copies(form: str) -> None:
    network, declared = made(form), made(form, per_task_output=True)
    chosen = [loss[task] for task, loss in zip(TASKS, losses(network), strict=True)]
    sum(chosen).backward()
    sum(losses(declared)).backward()
    assert len(gradients(network)) == 8
    for one, other in zip(gradients(network), gradients(declared), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def of_targets(network: nn.Module) -> None:
    targets = TaskTensor([torch.zeros(5, 1), torch.ones(5, 1)], tasks=TASKS)
    sum((entry - targets).square().mean() for entry in network(X)).backward()


def of_a_penalty(network: nn.Module) -> None:
    (sum(losses(network)) + network.trunk.weight.square().sum()).backward()


@pytest.mark.parametrize(
    "use",
    [
        of_targets,
        of_a_penalty,
        lambda network: sum(sum(losses(network)).by_task().values()).backward(),
        lambda network: losses(network)[0].backward(),
    ],
    ids=["targets per task", "a term of the copies", "by task", "one entry of a tuple"],
)
def test_what_may_be_meant_is_not_refused(use: Callable[[nn.Module], None]) -> None:
    network = made()
    use(network)
    copies = [network.trunk.tasks.a.weight.grad, network.trunk.tasks.b.weight.grad]
    assert all(gradient is not None for gradient in copies)


@pytest.mark.parametrize("entries", [1, 3])
def test_other_numbers_of_entries_are_a_whole_for_each_task(entries: int) -> None:
    torch.manual_seed(0)
    plain = Network(entries=entries) if entries > 1 else Network("list", 1)
    network = split_layers(copy.deepcopy(plain), ["trunk"], TASKS)
    sum(losses(network)).backward()
    sum(losses(plain)).backward()
    for task in TASKS:
        own = getattr(network.trunk.tasks, task).weight.grad
        torch.testing.assert_close(own, plain.trunk.weight.grad, rtol=1e-12, atol=0)
