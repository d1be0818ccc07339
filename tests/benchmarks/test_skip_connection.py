"""The check of the authors' residual block."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torchvision.models.resnet import BasicBlock

from libmtl_recon import split_layers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ORDER = ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer2.0.downsample.0", "layer2.1.bn1", "fc"]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import skip_connection

    return skip_connection


def test_task_2_alone_loses_what_the_block_adds(check: ModuleType) -> None:
    torch.manual_seed(0)
    block = split_layers(BasicBlock(4, 4).double(), ["conv1"], ["digit", "article"]).eval()
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    right = block(images).parts
    with check.skip_for_task_1():
        first, second = block(images).parts
    branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(images))))).parts[1]
    assert torch.equal(first, right[0])
    torch.testing.assert_close(second, torch.relu(branch), rtol=0, atol=1e-14)
    assert torch.equal(block(images).parts[1], right[1])


@pytest.mark.parametrize(
    ("layers", "inside"),
    [
        (["fc", "conv1", "layer2.1.bn1"], False),
        (["fc"], False),
        (["layer2.1.bn1", "fc"], True),
        (["layer1.0.conv1"], True),
        (["layer2.0.conv1", "layer2.1.bn1"], True),
        (["layer2.0.conv1", "layer2.0.downsample.0"], False),
        (["layer2.0.downsample.0"], False),
    ],
)
def test_where_a_split_begins(check: ModuleType, layers: list[str], inside: bool) -> None:
    assert check.begins_inside(layers, ORDER) is inside
