"""What is the same for all tasks runs once, and of one task alone only its branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sample_networks import image, resnet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from libmtl_recon.splitting import TaskTensor, only_task, split_layers, task_parameters


def test_what_stands_before_the_first_split_runs_once() -> None:
    split = split_layers(resnet(), ["layer3.0.conv1"], ["a", "b"])
    calls = {"layer1.0.conv1": 0, "layer3.0.conv1": 0}
    seen: dict[str, type] = {}
    for name in calls:
        split.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: type(out)})
        )
    split(image())
    assert seen == {"layer1.0.conv1": Tensor, "layer3.0.conv1": TaskTensor}


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that run, forwards."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.name().startswith("aten::convolution")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("layer", "shared", "own"),
    # A residual net with one block a stage has 12 convolutions; that of the shortcut of a stage
    # whose first convolution is split still runs once.
    [("conv1", 0, 12), ("layer3.0.conv1", 7, 5), ("layer4.0.conv2", 11, 1), ("fc", 12, 0)],
)
def test_only_what_is_a_tasks_own_runs_once_per_task(layer: str, shared: int, own: int) -> None:
    split = split_layers(resnet(), [layer], ["a", "b", "c"])
    with Convolutions() as every:
        split(image())
    assert every.count == shared + 3 * own
    with Convolutions() as one, only_task(split, "b"):
        split(image())
    assert one.count == shared + own


def test_without_a_split_on_the_way_the_output_is_plain() -> None:
    network = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    network.forward = lambda x: network["used"](x)
    split_layers(network, ["idle"], ["a", "b"])
    assert type(network(torch.ones(1, 2))) is Tensor


def test_only_the_wanted_tasks_branch_gets_gradients() -> None:
    split = split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"])
    with only_task(split, "b"):
        split(image()).sum().backward()
    assert task_parameters(split, "a")["layer2.0.conv1.weight"].grad is None
    assert task_parameters(split, "b")["layer2.0.conv1.weight"].grad is not None
