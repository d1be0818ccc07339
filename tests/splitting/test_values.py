"""The values that the tasks' copies start from, and are set to."""

from __future__ import annotations

import torch
from sample_networks import resnet
from torch import nn

from libmtl_recon.splitting import split_layers, task_parameters


def test_copies_start_equal_and_are_apart() -> None:
    split = split_layers(resnet(), ["fc"], ["a", "b"])
    first, second = (task_parameters(split, task)["fc.weight"] for task in "ab")
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_fresh_copies_are_each_a_draw_of_their_own() -> None:
    torch.manual_seed(4)
    split = split_layers(nn.Sequential(nn.Linear(3, 50), nn.BatchNorm1d(50)), ["0"], ["a", "b"])
    torch.manual_seed(4)
    drawn = split_layers(
        nn.Sequential(nn.Linear(3, 50), nn.BatchNorm1d(50)), ["0", "1"], ["a", "b"], init="fresh"
    )
    first, second = (task_parameters(drawn, task) for task in "ab")
    assert not torch.equal(first["0.weight"], second["0.weight"])
    assert not torch.equal(first["0.weight"], task_parameters(split, "a")["0.weight"])
    bound = 3**-0.5  # of nn.Linear's uniform distribution
    for own in (first, second):
        assert 0.9 * bound < float(own["0.weight"].detach().abs().max()) <= bound
        assert torch.equal(own["1.weight"], torch.ones(50))
    torch.manual_seed(4)
    again = split_layers(nn.Sequential(nn.Linear(3, 50)), ["0"], ["a", "b"], init="fresh")
    assert torch.equal(task_parameters(again, "b")["0.weight"], second["0.weight"])


def test_weights_can_be_set_and_initialised() -> None:
    layer = split_layers(nn.Sequential(nn.Linear(3, 4)), ["0"], ["a", "b"])[0]
    layer.weight = nn.Parameter(torch.ones(4, 3))
    first, second = layer.weight.parts
    assert [*dict(layer.named_parameters())] == [
        f"tasks.{task}.{name}" for task in "ab" for name in ("weight", "bias")
    ]
    assert second.tolist() == [[1.0] * 3] * 4
    assert first.data_ptr() != second.data_ptr()
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)
    first, second = layer.weight.parts
    assert not torch.equal(first, second)
    assert not layer.bias.any()
    layer.reset_parameters()
    layer.weight.data.fill_(2.0)
    assert all(part.requires_grad and (part == 2).all() for part in layer.weight.parts)
