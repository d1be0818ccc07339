"""How large a split network is: counted once for all tasks, or once per task."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon import ReconError, UsageError, extract_task, split_layers, summary
from libmtl_recon.splitting.split import split_beside
from libmtl_recon.splitting.task_selection import TaskSelection

TASKS = ("left", "right", "third")


class Odd(nn.Module):
    """Tied, frozen and complex parameters, a norm with statistics, and one of the root's own."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(7, 4), nn.Linear(4, 7)
        self.out.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(4)
        self.phase = nn.Parameter(torch.randn(5, dtype=torch.complex64))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.frozen(self.embedding(x))))


def numbers(module: nn.Module) -> int:
    return sum(p.numel() * (1 + p.is_complex()) for p in module.parameters())


@pytest.mark.parametrize(
    ("layers", "own"),
    [
        ([], 0),
        (["norm"], 8),
        (["embedding", "out"], 7 * 4 + 7),
        (["(root)", "norm"], 2 * 5 + 8),
    ],
)
def test_each_parameter_counts_for_whom_it_is(layers: list[str], own: int) -> None:
    plain = numbers(Odd())
    found = summary(split_beside(Odd(), layers, TaskSelection(TASKS)))
    assert found.shared.parameters == plain - own
    assert [row.parameters for row in found.tasks] == ([own] * 3 if layers else [])
    assert found.unsplit == plain
    assert found.total.parameters == plain + 2 * own
    assert found.growth == (plain + 2 * own) / plain


def test_it_is_what_one_task_s_network_has() -> None:
    split = split_layers(Odd(), ["embedding", "out"], TASKS)
    found = summary(split)
    for row in found.tasks:
        alone = numbers(extract_task(split, row.name))
        assert found.shared.parameters + row.parameters == alone == found.unsplit


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_megabytes_are_of_float32(dtype: torch.dtype) -> None:
    # One million numbers of four bytes are 3.81 times 2^20.
    found = summary(nn.Linear(1000, 1000, bias=False, dtype=dtype))
    assert found.total.megabytes == pytest.approx(4_000_000 / 1_048_576, abs=0)
    assert [row.name for row in found.rows] == ["shared", "total"]


def test_the_table_of_the_multi_fashion_paper() -> None:
    """A ResNet18 of 11.2 million numbers, as LibMTL has it, is one of 42.6 MB."""
    resnet18 = pytest.importorskip("torchvision.models").resnet18
    found = summary(split_layers(resnet18(), ["conv1", "layer1.0.bn1"], ["a", "b"]))
    assert found.unsplit == 11_689_512
    assert [row.parameters for row in found.tasks] == [64 * 3 * 49 + 128] * 2
    assert f"{found.total.megabytes:.2f}" == "44.63"
    lines = str(found).splitlines()
    assert re.fullmatch(r"shared +11,679,976 +44\.56", lines[1])
    assert lines[-1] == "1.00 × the network before its split (11,689,512 parameters, 44.59 MB)"


def test_two_networks_in_one_are_added_up() -> None:
    both = nn.ModuleDict(
        {
            "one": split_layers(nn.Linear(4, 2), ["(root)"], ["a", "b"]),
            "two": split_layers(nn.Linear(3, 1), ["(root)"], ["b", "c", "d"]),
        }
    )
    found = summary(nn.DataParallel(both))
    assert {row.name: row.parameters for row in found.tasks} == {"a": 10, "b": 14, "c": 4, "d": 4}
    assert found.unsplit == 14


def test_compiled_and_plain_are_the_same() -> None:
    split = split_layers(Odd(), ["norm"], TASKS)
    assert str(summary(torch.compile(split))) == str(summary(split))


def test_what_has_no_size_is_refused() -> None:
    with pytest.raises(UsageError, match=r"network must be a torch\.nn\.Module"):
        summary(nn.Linear)  # type: ignore[arg-type]
    with pytest.raises(ReconError, match=r"shape of weight is not known .* Run the network once"):
        summary(nn.LazyLinear(3))
    assert summary(nn.ReLU()).growth == 1
