"""The papers' networks for images, split: equal to separate networks, to the last bit."""

from __future__ import annotations

import pytest
import torch
from plain import Twins
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from libmtl_recon.problems.networks import build

# Where a split begins, in words, and its layers.
CASES = [
    ("segnet", "before a pooling", ["conv_block_enc.1.conv1"]),
    ("segnet", "behind an unpooling", ["decoder_block.2.conv1", "conv_block_dec.0.bn1"]),
    ("segnet_mtan", "before a mask and a pooling", ["conv_block_enc.2.0.conv1"]),
    ("segnet_mtan", "behind a mask", ["encoder_block_att.1.conv1", "decoder_block_att.0.bn1"]),
    ("mobilenetv2_raspp", "before the early features", ["features.2.conv.1.0"]),
    ("mobilenetv2_raspp", "behind them", ["features.14.conv.1.0", "raspp.pooled.1.0"]),
]


class Joined(nn.Module):
    """Joins the list that an encoder returns, so that all of it is compared."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        out = self.encoder(x)
        return torch.cat(out, dim=1) if isinstance(out, list) else out


class Checkpointed(Joined):
    """Computes it again for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def twins(network: str, layers: list[str], wrap: type[Joined]) -> Twins:
    torch.manual_seed(0)
    encoder = build(network, {"a": 1, "b": 1}, width=0.04).encoder_class()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # separate networks would draw other numbers
    return Twins(wrap(encoder), [f"encoder.{layer}" for layer in layers])


def check(network: str, where: str, layers: list[str], wrap: type[Joined]) -> None:
    both = twins(network, layers, wrap)
    x = torch.randn(2, 3, 40, 33)  # of sizes that no pooling halves evenly
    both.train_step(x, torch.optim.SGD(both.split.parameters(), lr=0.1))
    one, other = both.outputs(x)[0]
    assert (one - other).abs().max() > 1e-3, where  # the tasks' own values reach the end
    both.assert_equal(x)
    for module in (both.split, *both.plain.values()):
        module.eval()
    both.assert_equal(x)


@pytest.mark.parametrize(("network", "where", "layers"), CASES)
def test_outputs_and_gradients_equal_separate_networks(
    network: str, where: str, layers: list[str]
) -> None:
    check(network, where, layers, Joined)


@pytest.mark.parametrize(("network", "where", "layers"), CASES[:3])
def test_so_they_do_where_all_is_computed_again(
    network: str, where: str, layers: list[str]
) -> None:
    check(network, where, layers, Checkpointed)
