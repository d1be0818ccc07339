"""Split networks in DistributedDataParallel, in a group of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from test_names import TASKS, apart
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from libmtl_recon import ReconError, by_task

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file: Path = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=file.as_uri(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def split() -> nn.Module:
    torch.manual_seed(0)
    return apart(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), ["2"])


class ByTask(nn.Module):
    """What the messages advise."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = split()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return by_task(self.inner(x))


def gradients(network: Any, x: Tensor) -> list[Tensor]:
    """Return the gradients of the second step, with a different weight for each task."""
    for _ in range(2):
        network.zero_grad()
        out = network(x)
        found = out if isinstance(out, dict) else out.by_task()
        sum((n + 1) * found[task].square().sum() for n, task in enumerate(TASKS)).backward()
    return [parameter.grad for parameter in network.parameters()]


FLAGS: list[dict[str, bool]] = [{}, {"find_unused_parameters": True}, {"static_graph": True}]


@pytest.mark.parametrize("flags", FLAGS)
def test_trains_as_without(flags: dict[str, bool]) -> None:
    x = torch.randn(5, 4)
    expected = gradients(split(), x)
    wrapped = [ByTask()] if flags else [ByTask(), split()]
    for network in wrapped:
        found = gradients(DistributedDataParallel(network, **flags), x)
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("flags", FLAGS[1:])
def test_what_follows_the_graph_is_told_what_to_do(flags: dict[str, bool]) -> None:
    network = DistributedDataParallel(split(), **flags)
    with pytest.raises(ReconError, match=r"one grad_fn per task.*by_task\(split\(x\)\)"):
        network(torch.randn(5, 4))


def test_one_task_alone_with_unused_parameters() -> None:
    network = DistributedDataParallel(ByTask(), find_unused_parameters=True)
    for task in (*TASKS, *TASKS):
        network.zero_grad()
        network(torch.randn(5, 4))[task].square().sum().backward()
        reached = {n for n, p in network.named_parameters() if p.grad is not None}
        assert {n.split(".")[4] for n in reached if ".tasks." in n} == {task}


def test_torch_export_is_told_the_same_and_takes_it() -> None:
    x = torch.randn(5, 4)
    with pytest.raises(ReconError, match=r"one untyped_storage per task.*by_task"):
        torch.export.export(split(), (x,))
    network = ByTask()
    found = torch.export.export(network, (x,)).module()(x)
    for task, value in network(x).items():
        assert torch.equal(found[task], value)
