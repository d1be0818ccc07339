"""The sizes of the papers' networks, here and in the Recon paper's column #P.

    python benchmarks/sizes.py

Builds each network, without values, splits the layers that the authors' published rankings have at
the top, counts with `libmtl_recon.summary`, and prints the table of docs/results/sizes.md. Nothing
is trained; it takes seconds.
"""

from __future__ import annotations

import libmtl_recon  # first, so that LibMTL can be imported with current torch versions

# isort: split
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from ranking import AUTHORS as RESNET18
from torch import nn

from libmtl_recon import split_layers
from libmtl_recon.conflicts.baselines import first_layers, last_layers, norms_first
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.problems.multi_fashion_mnist import PAIRS, ResNet18, make_head
from libmtl_recon.problems.networks import Network, build

# The first layers of the lists of the authors' program, worst first: SegNet's on CityScapes, MTAN's
# on NYUv2. They have no lists for PASCAL-Context and CelebA, nor for a second data set.
_SEGNET_LAYERS = (
    "decoder_block.0.bn1 conv_block_dec.1.bn1 conv_block_dec.2.1.bn1 conv_block_dec.2.0.bn1 "
    "decoder_block.0.conv1 decoder_block.1.bn1 conv_block_dec.0.bn1 conv_block_dec.0.conv1 "
    "decoder_block.2.bn1 conv_block_dec.1.conv1 conv_block_dec.2.1.conv1 decoder_block.1.conv1 "
    "conv_block_dec.3.1.bn1 conv_block_dec.3.0.bn1 conv_block_dec.2.0.conv1 decoder_block.3.bn1 "
    "decoder_block.2.conv1 conv_block_dec.4.1.bn1 encoder_block.0.conv1 conv_block_dec.3.1.conv1 "
    "conv_block_dec.3.0.conv1 conv_block_dec.4.0.bn1 encoder_block.0.bn1 conv_block_enc.0.conv1 "
    "conv_block_enc.0.bn1 encoder_block.1.bn1 decoder_block.3.conv1 decoder_block.4.bn1 "
    "conv_block_enc.3.1.bn1 conv_block_enc.4.0.bn1 conv_block_enc.1.bn1 encoder_block.3.bn1 "
    "encoder_block.2.bn1 encoder_block.4.bn1 conv_block_enc.4.1.bn1 conv_block_enc.3.0.bn1 "
    "conv_block_enc.2.1.bn1 encoder_block.1.conv1 conv_block_enc.1.conv1 conv_block_enc.2.0.bn1"
)
_MTAN_LAYERS = (
    "decoder_block_att.1.bn1 conv_block_dec.0.bn1 decoder_block_att.1.conv1 "
    "decoder_block_att.0.bn1 encoder_block_att.0.bn1 decoder_block_att.3.bn1 "
    "encoder_block_att.1.bn1 decoder_block_att.2.bn1 encoder_block_att.2.bn1 decoder_block.2.bn1 "
    "decoder_block.0.bn1 conv_block_dec.1.bn1 decoder_block_att.0.conv1 encoder_block_att.3.bn1 "
    "decoder_block_att.4.bn1 conv_block_dec.2.0.bn1 conv_block_dec.0.conv1 decoder_block.1.bn1 "
    "conv_block_dec.2.1.bn1 conv_block_dec.3.0.bn1 decoder_block.0.conv1 conv_block_dec.3.1.bn1 "
    "encoder_block_att.4.bn1 conv_block_dec.2.1.conv1 decoder_block.3.bn1"
)
SEGNET, MTAN = _SEGNET_LAYERS.split(), _MTAN_LAYERS.split()

NYUV2 = {"semantic": 13, "depth": 1, "normal": 3}
CITYSCAPES = {"semantic": 7, "depth": 1}
PASCAL_CONTEXT = {"semseg": 21, "human_parts": 7, "saliency": 1, "normals": 3}
CELEBA = {f"attribute{number}": 2 for number in range(40)}
_Build = Callable[[Mapping[str, int]], Network]


def multi_fashion_mnist(outputs: Mapping[str, int]) -> Network:
    """Return the network of the built-in problem; its heads are those of the authors' program."""
    heads = nn.ModuleDict({task: make_head("one") for task in outputs})
    return Network(ResNet18, heads)


def network_of(name: str) -> _Build:
    """Return a function that builds one of the papers' networks for given tasks."""
    return lambda outputs: build(name, outputs)


@dataclass(frozen=True)
class Size:
    """One size of the paper.

    Attributes:
        table: Where the paper has it.
        what: How the network is trained.
        paper: The size there, in MB, as it is printed.
        network: Builds the network; None: the layers are not known.
        outputs: Per task, the channels of its output.
        layers: Chooses the split layers among those that all tasks share.
        single: Whether each task has a network of its own.
    """

    table: str
    what: str
    paper: str
    network: _Build | None
    outputs: Mapping[str, int] = field(default_factory=dict)
    layers: Callable[[nn.Module], Sequence[str]] = lambda encoder: ()
    single: bool = False

    def megabytes(self) -> float | None:
        """Return the size here."""
        if self.network is None:
            return None
        if self.single:
            counts = list(self.outputs.values())
            alone = {n: counted(self.network, {"task": n}, self.layers) for n in set(counts)}
            return sum(alone[count] for count in counts)
        return counted(self.network, self.outputs, self.layers)


def counted(
    network: _Build, outputs: Mapping[str, int], layers: Callable[[nn.Module], Sequence[str]]
) -> float:
    """Return the size of a network with split layers, in MB of 2^20 bytes of float32 numbers."""
    whole = copy.deepcopy(built(network, tuple(outputs.items())))
    chosen = list(layers(whole["encoder"]))
    if chosen:
        whole["encoder"] = split_layers(whole["encoder"], chosen, list(outputs))
    return libmtl_recon.summary(whole).total.megabytes


@functools.cache
def built(network: _Build, outputs: tuple[tuple[str, int], ...]) -> nn.ModuleDict:
    """Return a network without values."""
    with torch.device("meta"):
        parts = network(dict(outputs))
        return nn.ModuleDict({"encoder": parts.encoder_class(), "decoders": parts.decoders})


def worst(ranking: Sequence[str], K: int) -> Callable[[nn.Module], Sequence[str]]:
    """Choose the first K layers of a published ranking."""
    return lambda _: ranking[:K]


_PAIR = dict.fromkeys(PAIRS["digit+article"], 10)
_SEGNET, _MTAN, _RESNET18, _MOBILENET = map(
    network_of, ("segnet", "segnet_mtan", "resnet18", "mobilenetv2_raspp")
)
SIZES = [
    Size("1", "single-task", "85.62", multi_fashion_mnist, _PAIR, single=True),
    Size("1", "joint", "42.81", multi_fashion_mnist, _PAIR),
    Size("1", "Recon, K = 25", "43.43", multi_fashion_mnist, _PAIR, worst(RESNET18, 25)),
    Size(
        "11", "first 25 layers", "48.90", multi_fashion_mnist, _PAIR,
        lambda encoder: first_layers(layers_of(encoder), 25),
    ),
    Size(
        "11", "last 25 layers", "84.17", multi_fashion_mnist, _PAIR,
        lambda encoder: last_layers(layers_of(encoder), 25),
    ),
    Size("11", "Recon, K = 25", "43.42", multi_fashion_mnist, _PAIR, worst(RESNET18, 25)),
    Size("2", "single-task", "1706.03", _RESNET18, CELEBA, single=True),
    Size("2", "joint", "43.26", _RESNET18, CELEBA),
    Size("2", "Recon, K = 25", "68.03", _RESNET18, CELEBA, worst(RESNET18, 25)),
    Size("3", "single-task", "190.59", _SEGNET, CITYSCAPES, single=True),
    Size("3", "joint", "95.43", _SEGNET, CITYSCAPES),
    Size("3", "Recon, K = 39", "108.44", _SEGNET, CITYSCAPES, worst(SEGNET, 39)),
    Size("13", "Recon, 1st quarter, K = 39", "108.439", _SEGNET, CITYSCAPES, worst(SEGNET, 39)),
    Size("13", "Recon, 2nd quarter, K = 40", "108.440", _SEGNET, CITYSCAPES, worst(SEGNET, 40)),
    Size("13", "Recon, later quarters", "109.567", None),
    Size("4", "single-task", "30.09", _MOBILENET, PASCAL_CONTEXT, single=True),
    Size("4", "joint", "8.04", _MOBILENET, PASCAL_CONTEXT),
    Size(
        "4", "85 layers, norms first", "10.20", _MOBILENET, PASCAL_CONTEXT,
        lambda encoder: norms_first(layers_of(encoder), 85),
    ),
    Size("5", "single-task", "285.88", _SEGNET, NYUV2, single=True),
    Size("5", "joint", "168.72", _MTAN, NYUV2),
    Size("5", "Recon, K = 22", "169.59", _MTAN, NYUV2, worst(MTAN, 22)),
    Size("5", "Recon, K = 15", "169.59", _MTAN, NYUV2, worst(MTAN, 15)),
    Size("5", "Recon, K = 13", "169.59", _MTAN, NYUV2, worst(MTAN, 13)),
    Size("15", "joint", "95.58", _SEGNET, NYUV2),
    Size("15", "Recon*, K = 39", "121.59", _SEGNET, NYUV2, worst(SEGNET, 39)),
    Size("15", "Recon", "139.59", None),
    Size("16", "single-task", "190.58", _SEGNET, CITYSCAPES, single=True),
    Size("16", "joint", "157.19", _MTAN, CITYSCAPES),
    Size("16", "Recon*, K = 25", "159.19", _MTAN, CITYSCAPES, worst(MTAN, 25)),
    Size("16", "Recon", "196.32", None),
]  # fmt: skip
_TABLES = {
    "1": "Multi-Fashion+MNIST, ResNet18",
    "11": "Multi-Fashion+MNIST, ResNet18",
    "2": "CelebA, ResNet18",
    "3": "CityScapes, SegNet",
    "13": "CityScapes, SegNet",
    "4": "PASCAL-Context, MobileNetV2",
    "5": "NYUv2, MTAN",
    "15": "NYUv2, SegNet",
    "16": "CityScapes, MTAN",
}


def table(found: Sequence[float | None]) -> str:
    """Return the table in Markdown.

    Args:
        found: The size here of each of :data:`SIZES`.
    """
    lines = ["| table | network | trained | here | paper |", "|---|---|---|---:|---:|"]
    for size, here in zip(SIZES, found, strict=True):
        digits = len(size.paper.partition(".")[2])
        shown = "" if here is None else f"{here:.{digits}f}"
        cells = [size.table, _TABLES[size.table], size.what, shown, size.paper]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([size.megabytes() for size in SIZES]))
