from __future__ import annotations

import torch
from torch import nn

from libmtl_recon.conflicts.fingerprint import fingerprint, loose_fingerprint
from libmtl_recon.conflicts.layers import Layer, layers_of


class Net(nn.Module):
    def __init__(self, channels: int = 1, width: int = 4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.conv = nn.Conv2d(channels, width, 3)
        self.block = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Linear(width, 2))


def test_a_layer_is_a_module_with_parameters_of_its_own() -> None:
    assert layers_of(Net()) == (
        Layer("(root)", "Net", ((3,),)),
        Layer("conv", "Conv2d", ((4, 1, 3, 3), (4,))),
        Layer("block.0", "BatchNorm2d", ((4,), (4,))),
        Layer("block.2", "Linear", ((2, 4), (2,))),
    )


def test_parameters_are_counted_and_the_root_has_a_name() -> None:
    layers = layers_of(Net())
    assert [layer.parameters for layer in layers] == [3, 40, 8, 10]
    assert [layer.name for layer in layers] == ["(root)", "conv", "block.0", "block.2"]
    assert [layer.title for layer in layers] == [layer.name for layer in layers]
    assert Layer("", "Net", ((3,),)) == layers[0], "its path"


def test_frozen_parameters_do_not_count() -> None:
    net = Net()
    net.conv.bias.requires_grad_(False)
    net.block[0].requires_grad_(False)
    assert [(layer.name, layer.shapes) for layer in layers_of(net)] == [
        ("(root)", ((3,),)),
        ("conv", ((4, 1, 3, 3),)),
        ("block.2", ((2, 4), (2,))),
    ]


def test_a_tied_parameter_counts_for_its_first_holder() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    assert [(layer.name, layer.parameters) for layer in layers_of(net)] == [("0", 20), ("1", 4)]


def test_a_module_used_twice_is_one_layer() -> None:
    inner = nn.Linear(3, 3)
    assert [layer.name for layer in layers_of(nn.Sequential(inner, nn.ReLU(), inner))] == ["0"]


def test_fingerprints_tell_shapes_apart_only_if_strict() -> None:
    one, three = layers_of(Net(1)), layers_of(Net(3))
    assert fingerprint(one) == fingerprint(layers_of(Net(1)))
    assert fingerprint(one) != fingerprint(three)
    assert loose_fingerprint(one) == loose_fingerprint(three)
    # Names, types and their order count in both.
    assert loose_fingerprint(one) != loose_fingerprint(one[1:])
    assert loose_fingerprint(one) != loose_fingerprint(one[::-1])
    renamed = (Layer("x", *[one[0].type, one[0].shapes]), *one[1:])
    assert loose_fingerprint(one) != loose_fingerprint(renamed)
