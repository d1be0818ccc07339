"""Small networks of many kinds, with layers to split and data for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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


def spectral_normed() -> nn.Module:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(4, 4), layer, nn.Tanh(), nn.Linear(4, 2))


def rows() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(6, 4)


def words() -> Tensor:
    return torch.tensor([[1.0, 2.0, 6.0], [0.0, 2.0, 3.0]])


def vit() -> nn.Module:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    )  # fmt: skip
    # They start at zero, so that nothing would come out, and no gradient go in.
    for parameter in (network.class_token, network.heads.head.weight):
        nn.init.normal_(parameter)
    return network


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
    "vit-class-token": (vit, ["(root)"], image),
    "vit-much": (
        vit,
        ["(root)", "encoder", "conv_proj", "encoder.layers.encoder_layer_0.ln_1", "heads.head"],
        image,
    ),
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
    "spectral-norm": (spectral_normed, ["1.parametrizations.weight"], rows),
    "before-spectral-norm": (spectral_normed, ["0"], rows),
    "tied": (Tied, ["embedding"], words),
    "tied-both": (lambda: Tied(bias=True), ["output", "embedding"], words),
    "twice": (Twice, ["again", "read"], lambda: torch.randn(3, 4)),
}
