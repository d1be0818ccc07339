"""A split network against T plain networks, to the last bit."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Twins, total
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from libmtl_recon import ReconError, UsageError
from libmtl_recon.architecture import (
    Bundle,
    is_split,
    only_task,
    shared_parameters,
    split_layers,
    task_parameters,
)
from libmtl_recon.conflict.layers import layers_of


def image(size: int = 32) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, 3, size, size)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    blocks = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(blocks, [1, 1, 1, 1], num_classes=5)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, _) = self.lstm(x)
        return self.head(out[:, -1] + hidden[-1])


class Twice(nn.Module):
    """A module that is used twice, and one that reads a child's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, 4)
        self.read = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.again(torch.relu(self.again(x))))
        return nn.functional.linear(x, self.read.weight) + self.read.bias


class Keyword(nn.Module):
    """Calls its norm by keyword, as little code does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(input=self.one(x))


class Lists(nn.Module):
    """Parameters in a list and a dict, and a reentrant checkpoint behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ParameterList([torch.randn(4), torch.randn(4)])
        self.dict = nn.ParameterDict({"scale": torch.randn(4)})
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.list:
            x = torch.tanh(x * parameter)
        x = x * torch.stack(list(self.list)).sum(0) * self.dict["scale"]
        return checkpoint(self.last, x, use_reentrant=True)


class Tied(nn.Module):
    """The output layer is the embedding, as in language models."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.embedding, self.inner = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.output = nn.Linear(4, 7, bias=bias)
        self.output.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.relu(self.inner(self.embedding(x.long()))))


class Packed(nn.Module):
    """A recurrent network on sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.lstm = nn.LSTM(6, 8, bidirectional=True, proj_size=3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(self.inner(x), [5, 3, 2], batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


class Gated(nn.Module):
    """A GRU whose last state is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gru = nn.Linear(6, 6), nn.GRU(6, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.inner(x))[1]


class Messages(nn.Module):
    """Takes a dict and a tuple, gives a dict, and goes by shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rows = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.pairs = nn.Bilinear(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read({"words": x[:, 0].long().abs() % 7, "rows": (x, x + 1)})["out"]

    def read(self, message: dict[str, Any]) -> dict[str, Tensor]:
        first, second = message["rows"]
        found = self.rows(first) if second.shape[-1] == 4 and len(first) > 1 else second
        for _ in range(found.size(0) % 4):
            found = torch.tanh(found)
        return {"out": self.pairs(self.words(message["words"]), found)}


class InAndOut(nn.Module):
    """Its modules take and give tuples and dicts, by keyword too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = Messages(), nn.LSTMCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner.read(message={"words": x[:, 0].long().abs() % 7, "rows": (x, x)})
        hidden, cell = self.outer(found["out"], (x, x))
        return torch.cat((hidden, cell), dim=-1)


class GroupedNorms(nn.Module):
    """Depthwise convolutions, each way to normalise, and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(3, 6, 3, groups=3, bias=False)
        self.norms = nn.Sequential(
            nn.GroupNorm(2, 6), nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
        )
        self.up = nn.ConvTranspose2d(6, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(nn.functional.gelu(self.norms(self.depthwise(x))))


def normed(momentum: float | None = None) -> nn.Module:
    norm = nn.BatchNorm1d(4, momentum=momentum)
    return nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(inplace=True), nn.Linear(4, 2))


def weight_normed() -> nn.Module:
    return nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2)
    )


def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(6, 4)


def words() -> Tensor:
    return torch.tensor([[1.0, 2.0, 6.0], [0.0, 2.0, 3.0]])


def vit() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    )  # fmt: skip


def transformer() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2)


class Seq2Seq(nn.Module):
    """Encoder and decoder, with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.inner(x, x, tgt_mask=mask)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def sequence() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 5, 16)


NETWORKS = {
    "resnet-first": (resnet, ["conv1"], image),
    "resnet-middle": (resnet, ["layer2.0.bn1", "layer3.0.conv2"], image),
    "resnet-last": (resnet, ["fc"], image),
    "resnet-only-a-shortcut": (resnet, ["layer2.0.downsample.0"], image),
    "densenet": (
        lambda: torchvision.models.DenseNet(4, (2, 2), 8, num_classes=5),
        ["features.denseblock1.denselayer2.conv1", "features.norm5"],
        image,
    ),
    "mobilenet": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=5, dropout=0.0),
        ["features.4.block.1.0", "features.6.block.2.fc1"],
        lambda: image(64),
    ),
    "efficientnet": (
        lambda: torchvision.models.EfficientNet(
            [
                torchvision.models.efficientnet.MBConvConfig(1, 3, 1, 8, 8, 1),
                torchvision.models.efficientnet.MBConvConfig(4, 5, 2, 8, 12, 2),
            ],
            dropout=0.0,
            stochastic_depth_prob=0.0,
            num_classes=5,
            last_channel=16,
        ),
        ["features.2.0.block.1.0", "features.2.1.block.2.fc1", "features.1.0.block.0.1"],
        image,
    ),
    "grouped": (GroupedNorms, ["depthwise", "norms.1"], lambda: image(8)),
    "before-grouped": (GroupedNorms, ["norms.0"], lambda: image(8)),
    "encoder-decoder": (
        lambda: Seq2Seq(),
        ["inner.encoder.layers.0.linear1", "inner.decoder.layers.0.multihead_attn.out_proj"],
        sequence,
    ),
    "dicts-and-tuples": (Messages, ["words", "rows"], rows),
    "after-dicts": (InAndOut, ["inner.pairs"], rows),
    "cells": (InAndOut, ["outer"], rows),
    "swin": (
        lambda: torchvision.models.SwinTransformer(
            [4, 4], 12, [2, 2], [2, 2], [4, 4], stochastic_depth_prob=0.0, num_classes=5
        ),
        ["features.1.0.attn", "features.3.1.mlp.0"],
        image,
    ),
    "vit-attention": (vit, ["encoder.layers.encoder_layer_1.self_attention.out_proj"], image),
    "vit-positions": (vit, ["encoder", "encoder.layers.encoder_layer_0.self_attention"], image),
    "transformer": (transformer, ["layers.1.self_attn", "layers.0.linear1"], sequence),
    "lstm": (Recurrent, ["lstm"], lambda: torch.randn(3, 5, 6)),
    "after-lstm": (Recurrent, ["head"], lambda: torch.randn(3, 5, 6)),
    "packed-lstm": (Packed, ["lstm"], lambda: torch.randn(3, 5, 6)),
    "after-packed": (Packed, ["inner"], lambda: torch.randn(3, 5, 6)),
    "gru": (Gated, ["gru"], lambda: torch.randn(5, 3, 6)),
    "shared-gru": (Gated, ["inner"], lambda: torch.randn(5, 3, 6)),
    "averaged-norm": (normed, ["0"], rows),
    "split-averaged-norm": (normed, ["1"], rows),
    "norm-by-keyword": (Keyword, ["one"], rows),
    "parameter-lists": (Lists, ["list", "dict"], rows),
    "weight-norm": (weight_normed, ["0.parametrizations.weight"], rows),
    "tied": (Tied, ["embedding"], words),
    "tied-both": (lambda: Tied(bias=True), ["output", "embedding"], words),
    "twice": (Twice, ["again", "read"], lambda: torch.randn(3, 4)),
}


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


def test_what_stands_before_the_first_split_runs_once() -> None:
    split = split_layers(resnet(), ["layer3.0.conv1"], ["a", "b"])
    calls = {"layer1.0.conv1": 0, "layer3.0.conv1": 0}
    seen: dict[str, type] = {}
    for name in calls:
        split.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: type(out)})
        )
    split(image())
    assert seen == {"layer1.0.conv1": Tensor, "layer3.0.conv1": Bundle}


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
def test_only_what_is_a_tasks_own_runs_once_a_task(layer: str, shared: int, own: int) -> None:
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


def test_only_the_wanted_tasks_branch_gets_gradients() -> None:
    split = split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"])
    with only_task(split, "b"):
        split(image()).sum().backward()
    assert task_parameters(split, "a")["layer2.0.conv1.weight"].grad is None
    assert task_parameters(split, "b")["layer2.0.conv1.weight"].grad is not None


def test_only_task_ends_with_its_block_even_by_an_error() -> None:
    split = split_layers(resnet(), ["fc"], ["a", "b"])
    with pytest.raises(KeyError), only_task(split, "a"):
        raise KeyError
    assert len(split(image()).parts) == 2


@pytest.mark.parametrize("ran", [True, False])
def test_a_state_dict_loads_into_a_fresh_split_network(ran: bool) -> None:
    trained = Twins(resnet(), ["layer2.0.conv1"])
    trained.train_step(image(), torch.optim.SGD(trained.split.parameters(), lr=1e-2))
    fresh = split_layers(resnet().double(), ["layer2.0.conv1"], ["a", "b"])
    x = image().double()
    if ran:
        fresh(x)
    fresh.load_state_dict(trained.split.state_dict())
    fresh.eval(), trained.split.eval()
    for ours, theirs in zip(fresh(x).parts, trained.split(x).parts, strict=True):
        assert torch.equal(ours, theirs)


def test_a_state_dict_from_before_the_first_step_loads_after_it() -> None:
    split = split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"])
    early = copy.deepcopy(split.state_dict())
    split(image())
    split.load_state_dict(early)
    statistics = task_parameters(split, "b")["layer2.0.bn1.running_mean"]
    assert not statistics.any()


@pytest.mark.parametrize("name", ["resnet-middle", "lstm", "vit-positions"])
def test_copies_and_pickles(name: str) -> None:
    make, layers, data = NETWORKS[name]
    split = Twins(seeded(make), layers).split
    split.eval()
    x = data().double()
    expected = split(x).parts
    for other in (copy.deepcopy(split), pickle.loads(pickle.dumps(split))):
        for ours, theirs in zip(other(x).parts, expected, strict=True):
            assert torch.equal(ours, theirs)
        with only_task(other, "a"):
            assert type(split(x)) is Bundle, "a copy has a selection of its own"


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
    """As modules that are called once a task keep them."""
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


def test_mixed_and_separate_statistics_do_not_load_as_each_other() -> None:
    separate, mixed = (
        split_layers(resnet(), ["layer2.0.conv1"], ["a", "b"], bn=bn)
        for bn in ("per_task", "mixed")
    )
    for network in (separate, mixed):
        network(image())
    with pytest.raises(RuntimeError, match=r"layer2\.0\.bn1 keeps statistics that all tasks share"):
        mixed.load_state_dict(separate.state_dict())
    # The other way each task starts from the mixture.
    separate.load_state_dict(mixed.state_dict())
    own = task_parameters(separate, "b")["layer2.0.bn1.running_mean"]
    assert torch.equal(own, mixed.layer2[0].bn1.running_mean)


@pytest.mark.parametrize("versions", [True, False])
def test_a_plain_state_dict_gives_each_task_a_copy(versions: bool) -> None:
    plain = resnet().double()
    plain(image().double())
    state = plain.state_dict() if versions else dict(plain.state_dict())
    split = split_layers(resnet().double(), ["conv1", "layer2.0.bn1"], ["a", "b"])
    split(3 * image().double())
    split.load_state_dict(state)
    x = image().double()
    for network in (split, plain):
        network.eval()
    for part in split(x).parts:
        assert torch.equal(part, plain(x))
    fresh = split_layers(resnet().double(), ["conv1", "layer2.0.bn1"], ["a", "b"])
    fresh.load_state_dict(dict(split.state_dict()))  # a plain dict has no versions
    assert torch.equal(fresh.eval()(x).parts[0], plain(x))


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


class Redraws(nn.Module):
    """Its `reset_parameters` is its children's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner = nn.Parameter(torch.ones(2)), nn.Linear(2, 2)

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        self.inner.reset_parameters()


@pytest.mark.parametrize(
    ("network", "layer", "changes", "said"),
    [
        (vit, "encoder.layers.encoder_layer_0.self_attention", {"init": "fresh"}, "has none"),
        (Redraws, "", {"init": "fresh"}, "draws the modules inside it too"),
        (resnet, "fc", {"init": "zeros"}, "must be copy or fresh"),
        (resnet, "fc", {"bn": "shared"}, "must be per_task or mixed"),
    ],
)
def test_ways_that_there_are_not_are_refused(
    network: Callable[[], nn.Module], layer: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        split_layers(network(), [layer], ["a", "b"], **changes)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_networks_give_the_same_with_gradients(backend: str) -> None:
    twins = Twins(normed(0.1), ["0", "3"])
    whole = nn.Sequential(nn.Linear(4, 4).double(), twins.split, nn.Linear(2, 3).double())
    x = rows().double()
    expected = whole(x)
    total(list(expected.parts)).backward()
    gradients = [parameter.grad.clone() for parameter in whole.parameters()]
    whole.zero_grad()
    torch.compiler.reset()
    found = torch.compile(whole, backend=backend)(x)
    assert type(found) is Bundle
    for part, other in zip(found.parts, expected.parts, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-12, atol=1e-14)
    total(list(found.parts)).backward()
    for parameter, gradient in zip(whole.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)
    with only_task(twins.split, "b"):
        alone = torch.compile(twins.split, backend=backend)(x)
        assert torch.equal(alone, twins.split(x))
    torch.compiler.reset()


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


def test_each_thread_chooses_its_own_task() -> None:
    twins = Twins(resnet().eval(), ["layer2.0.conv1"])
    x = image().double()
    inside, done = threading.Event(), threading.Event()

    def other() -> Tensor:
        with only_task(twins.split, "b"):
            inside.set()
            done.wait(10)
            return twins.split(x)

    with ThreadPoolExecutor(1) as pool, only_task(twins.split, "a"):
        future = pool.submit(other)
        assert inside.wait(10)
        assert torch.equal(twins.split(x), twins.plain["a"](x))
        done.set()
        assert torch.equal(future.result(), twins.plain["b"](x))


def test_one_task_alone_is_plain_also_if_there_is_no_other() -> None:
    split = split_layers(normed(), ["0"], ["a"])
    assert len(split(rows()).parts) == 1
    with only_task(split, "a"):
        assert type(split(rows())) is Tensor


def test_nested_choices_end_one_by_one() -> None:
    split = split_layers(normed(), ["3"], ["a", "b"])
    with only_task(split, "a"):
        with only_task(split, "b"):
            assert torch.equal(split(rows()), nn.Sequential.forward(split, rows()).parts[0])
        assert type(split(rows())) is Tensor
    assert type(split(rows())) is Bundle


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


def test_copies_start_equal_and_are_apart() -> None:
    split = split_layers(resnet(), ["fc"], ["a", "b"])
    first, second = (task_parameters(split, task)["fc.weight"] for task in "ab")
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_shared_parameters_are_those_without_a_task() -> None:
    network = resnet()
    assert len(shared_parameters(network)) == len(list(network.parameters()))
    split = split_layers(network, ["fc", "conv1"], ["a", "b"])
    shared = {id(parameter) for parameter in shared_parameters(split)}
    own = {id(p) for task in "ab" for p in task_parameters(split, task).values()}
    assert not shared & own
    assert len(shared) + 2 * 3 == len(list(split.parameters()))
    assert is_split(split)


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


@pytest.mark.parametrize(
    ("network", "layers", "tasks", "said"),
    [
        (resnet, ["layer1.0.bn9"], ["a", "b"], "layer1.0.bn1"),
        (resnet, ["layer1.0"], ["a", "b"], "layer1.0.conv1"),
        (resnet, ["relu"], ["a", "b"], "It has none"),
        (resnet, ["fc"], [], "at least one"),
        (resnet, ["fc"], ["a", "a"], "none twice"),
        (resnet, ["fc"], ["a.b", "c"], "without a dot"),
        (resnet, ["fc"], ["train", "c"], "no attribute of nn.Module"),
        (resnet, "fc", "ab", "none twice"),
        (TiedLayers, ["first"], ["a", "b"], "'second': choose both"),
        (Tied, ["output"], ["a", "b"], "count for 'embedding'"),
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


def test_refuses_a_second_split_and_unknown_tasks() -> None:
    split = split_layers(resnet(), ["fc"], ["a", "b"])
    with pytest.raises(ReconError, match="split before"):
        split_layers(split, ["conv1"], ["a", "b"])
    with pytest.raises(ReconError, match="split before"):
        split_layers(nn.Sequential(split), ["0.conv1"], ["a", "b"])
    with pytest.raises(UsageError, match="'c'"), only_task(split, "c"):
        pass
    with pytest.raises(UsageError, match="split_layers"), only_task(resnet(), "a"):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_refuses_compiled_modules() -> None:
    network = nn.Sequential(torch.jit.script(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(ReconError, match=r"torch\.jit"):
        split_layers(network, ["1"], ["a", "b"])


def test_refuses_layers_whose_code_would_call_the_tasks() -> None:
    split = split_layers(CallsChildren(), [""], ["a", "b"])
    with pytest.raises(ReconError, match="calls all of its child modules"):
        split(rows())


def test_finds_a_module_under_each_of_its_names() -> None:
    network = nn.ModuleDict({"first": nn.Linear(2, 2)})
    network["again"] = network["first"]
    split_layers(network, ["again"], ["a", "b"])
    assert type(network["first"].weight) is Bundle
