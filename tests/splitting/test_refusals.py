"""What cannot be split is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sample_networks import Tied, resnet, rows, vit
from torch import Tensor, nn

from libmtl_recon import ReconError, UsageError
from libmtl_recon.splitting import only_task, split_layers


class TiedLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


class Container(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2))
        self.scale = nn.Parameter(torch.ones(2))


class CallsChildren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x * self.scale


class HasTasks(nn.Linear):
    tasks = 3


class Redraws(nn.Module):
    """Its `reset_parameters` is its children's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        self.inner.reset_parameters()


@pytest.mark.parametrize(
    ("network", "layers", "tasks", "said"),
    [
        (resnet, ["layer1.0.bn9"], ["a", "b"], "layer1.0.bn1"),
        (resnet, ["layer1.0"], ["a", "b"], "layer1.0.conv1"),
        (resnet, ["relu"], ["a", "b"], "It holds no parameters"),
        (resnet, [], ["a", "b"], r"layers must be at least one layer .*\['conv1'\]"),
        (resnet, ["fc", "fc"], ["a", "b"], r"layers must be different layers \(got 'fc'\)"),
        (vit, ["", "(root)"], ["a", "b"], r"must be different layers \(got '\(root\)'\)"),
        (resnet, ["fc"], ["a"], "tasks must be at least two"),
        (resnet, ["fc"], [], "at least one"),
        (resnet, ["fc"], ["a", "a"], r"different names \(got 'a'\)"),
        (resnet, ["fc"], ["v1.0", "c"], r"without a dot.*\(got 'v1\.0'\).*to 'v1_0'"),
        (resnet, ["fc"], ["train", "c"], "attributes of nn.Module.*to 'train_task'"),
        (resnet, ["fc"], ["a", "training"], "attributes of nn.Module.*'training'"),
        (resnet, ["fc"], ["a", "_modules"], "attributes of nn.Module.*'_modules'"),
        (resnet, ["fc"], ["a", ""], "non-empty.*Give the task a name"),
        (resnet, ["fc"], ["a", 0], r"must be names \(got 0\)"),
        (resnet, ["fc"], "ab", "different names, at least one"),
        (TiedLayers, ["first"], ["a", "b"], "'second': choose both"),
        (Tied, ["output"], ["a", "b"], "belong to the layer 'embedding'"),
        (lambda: nn.Sequential(nn.LazyLinear(2)), ["0"], ["a", "b"], "Run the network once"),
        (Container, [""], ["a", "b"], "containers"),
        (lambda: nn.Sequential(HasTasks(2, 2)), ["0"], ["a", "b"], "attribute 'tasks'"),
    ],
)
def test_refuses_by_name(
    network: Callable[[], nn.Module], layers: list[str], tasks: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        split_layers(network(), layers, tasks)


@pytest.mark.parametrize(
    ("network", "layer", "changes", "said"),
    [
        (vit, "encoder.layers.encoder_layer_0.self_attention", {"init": "fresh"}, "has none"),
        (Redraws, "", {"init": "fresh"}, "also initialises the modules inside it"),
        (resnet, "fc", {"init": "zeros"}, "must be copy or fresh"),
        (resnet, "fc", {"bn": "shared"}, "must be per_task or mixed"),
    ],
)
def test_ways_that_there_are_not_are_refused(
    network: Callable[[], nn.Module], layer: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        split_layers(network(), [layer], ["a", "b"], **changes)


def test_refuses_a_second_split_and_unknown_tasks() -> None:
    split = split_layers(resnet(), ["fc"], ["a", "b"])
    with pytest.raises(ReconError, match="already split"):
        split_layers(split, ["conv1"], ["a", "b"])
    with pytest.raises(ReconError, match="already split"):
        split_layers(nn.Sequential(split), ["0.conv1"], ["a", "b"])
    with pytest.raises(UsageError, match="'c'"), only_task(split, "c"):
        pass
    with pytest.raises(UsageError, match="split_layers"), only_task(resnet(), "a"):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_refuses_compiled_modules_by_name() -> None:
    scripted = torch.jit.script(nn.Linear(2, 2))
    network = nn.Sequential(nn.Sequential(scripted), nn.Linear(2, 2))
    with pytest.raises(ReconError, match=r"part '0\.0' is compiled by torch\.jit"):
        split_layers(network, ["1"], ["a", "b"])
    with pytest.raises(ReconError, match=r"This network is compiled by torch\.jit"):
        split_layers(scripted, [""], ["a", "b"])
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].compile(backend="eager")
    with pytest.raises(ReconError, match=r"part '1' is compiled by torch\.compile"):
        split_layers(network, ["0"], ["a", "b"])


def test_refuses_layers_whose_code_would_call_the_tasks() -> None:
    split = split_layers(CallsChildren(), [""], ["a", "b"])
    with pytest.raises(ReconError, match="calls all of its child modules"):
        split(rows())
