"""A split network against T plain networks, to the last bit."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Twins, total
from sample_networks import NETWORKS, image, resnet, rows, seeded, sequence, transformer
from torch import Tensor, nn

from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.splitting import (
    TaskTensor,
    is_split,
    only_task,
    shared_parameters,
    split_layers,
    task_parameters,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_plain_networks_through_training_and_evaluation(name: str) -> None:
    make, layers, data = NETWORKS[name]
    twins = Twins(seeded(make).train(), layers)
    x = data().double()
    optimizer = torch.optim.SGD(twins.split.parameters(), lr=1e-3, momentum=0.9)
    for _ in range(3):
        twins.train_step(x, optimizer)
    for network in (twins.split, *twins.plain.values()):
        network.eval()
    twins.assert_equal(x)
    for task, plain in twins.plain.items():
        with only_task(twins.split, task):
            alone = twins.split(x)
        assert type(alone) is Tensor
        assert torch.equal(alone, plain(x))


def test_three_tasks_with_adam() -> None:
    twins = Twins(resnet(), ["layer1.0.conv1", "layer4.0.bn2"], ("x", "y", "z"))
    optimizer = torch.optim.Adam(twins.split.parameters(), lr=1e-3)
    for _ in range(3):
        twins.train_step(image(), optimizer)
    twins.assert_equal(image())


@settings(max_examples=8, deadline=None)
@given(st.sets(st.sampled_from([layer.name for layer in layers_of(resnet())]), min_size=1))
def test_any_set_of_layers(layers: set[str]) -> None:
    twins = Twins(resnet(), sorted(layers))
    twins.train_step(image(), torch.optim.SGD(twins.split.parameters(), lr=1e-3))
    for network in (twins.split, *twins.plain.values()):
        network.eval()
    twins.assert_equal(image())


def test_the_wrong_gradient_of_a_custom_function_is_kept() -> None:
    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            return -gradient

    class Adversarial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(Reversed.apply(self.one(x)))

    twins = Twins(Adversarial(), ["one"])
    twins.train_step(rows(), torch.optim.SGD(twins.split.parameters(), lr=0.1))


def test_in_half_precision_as_the_plain_networks_are() -> None:
    twins = Twins(resnet(), ["layer2.0.downsample.0", "layer3.0.bn1"])
    with torch.autocast("cpu", torch.bfloat16):
        twins.assert_equal(image())


def test_in_single_precision_without_gradients() -> None:
    plain = transformer().eval()
    split = split_layers(copy.deepcopy(plain), ["layers.1.linear1"], ["a", "b"])
    with torch.no_grad():
        assert torch.equal(split(sequence()).parts[1], plain(sequence()))


def test_moves_and_converts_like_any_module() -> None:
    split = split_layers(resnet(), ["layer2.0.conv1", "fc"], ["a", "b"]).double()
    out = split(image().double())
    assert out.dtype == torch.float64
    total(list(out.parts)).backward()
    assert all(parameter.grad is not None for parameter in split.parameters())
    split.zero_grad()
    assert all(parameter.grad is None for parameter in split.parameters())


def test_stays_an_instance_of_its_class_and_names_its_copies() -> None:
    split = split_layers(resnet(), ["layer1.0.bn1"], ["digit", "article"])
    assert isinstance(split.layer1[0].bn1, nn.BatchNorm2d)
    names = dict(split.named_parameters())
    assert "layer1.0.bn1.tasks.digit.weight" in names
    assert "layer1.0.bn1.weight" not in names
    assert [tuple(p.shape) for p in split.layer1[0].bn1.weight.parts] == [(64,), (64,)]


def test_shared_parameters_are_those_without_a_task() -> None:
    network = resnet()
    assert len(shared_parameters(network)) == len(list(network.parameters()))
    split = split_layers(network, ["fc", "conv1"], ["a", "b"])
    shared = {id(parameter) for parameter in shared_parameters(split)}
    own = {id(p) for task in "ab" for p in task_parameters(split, task).values()}
    assert not shared & own
    assert len(shared) + 2 * 3 == len(list(split.parameters()))
    assert is_split(split)


def test_finds_a_module_under_each_of_its_names() -> None:
    network = nn.ModuleDict({"first": nn.Linear(2, 2)})
    network["again"] = network["first"]
    split_layers(network, ["again"], ["a", "b"])
    assert type(network["first"].weight) is TaskTensor
