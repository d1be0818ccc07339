from __future__ import annotations

import pytest
import torch
from torch import nn

from libmtl_recon.conflicts.fingerprint import fingerprint, loose_fingerprint
from libmtl_recon.conflicts.layers import Layer, layers_of, named_norm


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


class Renamed(nn.BatchNorm2d):
    """A subclass whose name does not say what it is."""


class NormLinear(nn.Linear):
    """A subclass whose name says what it is not."""


class OwnNorm(nn.Module):
    """Made from nothing of PyTorch's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))


class RMSNormSequence(nn.Sequential):
    """A container with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2))
        self.gain = nn.Parameter(torch.ones(2))


class Scale(OwnNorm):
    """Its own name alone counts, where no class of PyTorch says what it computes."""


@pytest.mark.parametrize(
    ("module", "norms"),
    [
        (nn.BatchNorm1d(2), [True]),
        (nn.SyncBatchNorm(2), [True]),
        (nn.LayerNorm(2), [True]),
        (nn.GroupNorm(1, 2), [True]),
        (nn.InstanceNorm2d(2, affine=True), [True]),
        (nn.RMSNorm(2), [True]),
        (nn.LazyBatchNorm2d(), [True]),
        (Renamed(2), [True]),
        (OwnNorm(2), [True]),
        (RMSNormSequence(), [True, False]),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), [False, False]),
        (nn.LocalResponseNorm(2), []),
        (nn.Linear(2, 2), [False]),
        (NormLinear(2, 2), [False]),
        (Scale(2), [False]),
        (nn.PReLU(), [False]),
        (nn.MultiheadAttention(2, 1), [False, False]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_norms_are_told_from_other_modules(module: nn.Module, norms: list[bool]) -> None:
    if isinstance(module, nn.LazyBatchNorm2d):
        module(torch.ones(2, 2, 1, 1))
    assert [layer.norm for layer in layers_of(module)] == norms


def test_a_parametrized_norm_is_one() -> None:
    bn = Renamed(2)
    nn.utils.parametrize.register_parametrization(bn, "weight", nn.Identity())
    assert [layer.norm for layer in layers_of(bn)] == [True, False], "its bias, and the rest"


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("BatchNorm2d", True),
        ("LayerNorm2d", True),
        ("LlamaRMSNorm", True),
        ("BatchNormAct2d", True),
        ("EvoNorm2dS0", True),
        ("GlobalResponseNorm", True),
        ("LayerNormalization", True),
        ("BatchNormalisation", True),
        ("layer_norm", True),
        ("rmsnorm2d", True),
        ("Conv2d", False),
        ("NormalHead", False),
        ("NormedLinear", False),
        ("Normalizer", False),
        ("WeightNormConv2d", False),
        ("SpectralNorm", False),
        ("BN", False),
    ],
)
def test_a_name_alone_says_what_is_a_norm(name: str, norm: bool) -> None:
    assert named_norm(name) is norm
    assert Layer("x", name, ((2,),)).norm is norm


def test_what_is_a_norm_makes_no_other_layer() -> None:
    (live,) = layers_of(Renamed(4))
    read = Layer("(root)", "Renamed", ((4,), (4,)))
    assert (live.norm, read.norm) == (True, False)
    assert live == read
    assert fingerprint([live]) == fingerprint([read])
