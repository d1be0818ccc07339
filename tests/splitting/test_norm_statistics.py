"""What norms and other layers keep of what they see, for each task or for all."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from plain import Twins, total
from sample_networks import image, normed, resnet, rows
from torch import Tensor, nn

from libmtl_recon import ReconError
from libmtl_recon.splitting import only_task, split_layers, task_parameters


def test_statistics_are_the_tasks_own_after_a_split_and_shared_before() -> None:
    split = split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"])
    split(image())
    keys = split.state_dict().keys()
    assert "bn1.running_mean" in keys
    assert "layer2.0.bn1.tasks.a.running_mean" in keys
    assert "layer2.0.bn1.weight" in keys, "its parameters stay shared"


def test_statistics_are_the_tasks_own_if_each_task_comes_alone() -> None:
    x = {"a": image().double(), "b": 3 + 2 * image().double()}
    twins = Twins(resnet(), ["conv1"])
    for task in twins.tasks:
        with only_task(twins.split, task):
            assert torch.equal(twins.split(x[task]), twins.plain[task](x[task]))
    for network in (twins.split, *twins.plain.values()):
        network.eval()
    for task in twins.tasks:
        with only_task(twins.split, task):
            assert torch.equal(twins.split(x[task]), twins.plain[task](x[task]))


def test_statistics_that_start_in_inference_mode_can_be_trained() -> None:
    split = split_layers(normed(0.1), ["0"], ["a", "b"]).eval()
    with torch.inference_mode():
        split(rows())
    total(list(split.train()(rows()).parts)).backward()
    assert split[1].num_batches_tracked == 1


def test_averaged_statistics_count_each_tasks_own_batches() -> None:
    twins = Twins(normed(), ["0"])
    x = rows().double()
    with only_task(twins.split, "a"):
        twins.split(x)
    twins.plain["a"](x)
    twins.assert_equal(x + 1)
    for network in (twins.split, *twins.plain.values()):
        network.eval()
    twins.assert_equal(x)


class Keeps(nn.Module):
    """Keeps a mean of what it computes, by assignment or in place."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.layer, self.in_place = nn.Linear(4, 4), in_place
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x) * self.scale
        if self.in_place:
            self.mean.mul_(0.9).add_(x.detach().mean(0))
        else:
            self.mean = 0.9 * self.mean + x.detach().mean(0)
        return x + self.mean


@pytest.mark.parametrize("in_place", [True, False])
def test_other_buffers_are_a_tasks_own_in_split_layers_and_refused_elsewhere(
    in_place: bool,
) -> None:
    twins = Twins(Keeps(in_place), [""])
    for _ in range(3):
        twins.assert_equal(rows())
    with pytest.raises(ReconError, match="share"):
        split_layers(Keeps(in_place), ["layer"], ["a", "b"])(rows())


def test_mixed_statistics_are_one_buffer_that_each_task_feeds_in_turn() -> None:
    """As modules that are called once per task keep them."""
    split = split_layers(normed(0.1).double(), ["0"], ["a", "b"], bn="mixed")
    norm, reference = split[1], nn.BatchNorm1d(4).double()
    with torch.no_grad():
        for task in "ab":
            task_parameters(split, task)["0.weight"].mul_(2 if task == "b" else 1)
    x = rows().double()
    for _ in range(3):
        inner = split[0](x).parts
        expected = [
            torch.relu(reference(part)) @ split[3].weight.T + split[3].bias for part in inner
        ]
        for part, other in zip(split(x).parts, expected, strict=True):
            assert torch.equal(part, other) or torch.allclose(part, other, rtol=1e-14)
    assert "1.running_mean" in split.state_dict()
    assert torch.equal(norm.running_mean, reference.running_mean)
    assert torch.equal(norm.running_var, reference.running_var)
    assert int(norm.num_batches_tracked) == 6
    reference.eval()
    expected = [reference(part) for part in split[0](x).parts]
    for part, other in zip(split.eval()[1](split[0](x)).parts, expected, strict=True):
        assert torch.equal(part, other)
    with only_task(split, "b"):
        alone = nn.Sequential.forward(split, x).parts[0]
    assert torch.equal(alone, split(x).parts[1])
    for other in (copy.deepcopy(split), pickle.loads(pickle.dumps(split))):
        assert torch.equal(other(x).parts[1], split(x).parts[1])
