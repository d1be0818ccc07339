"""Networks that return one entry per task: entry t is task t's, and nobody else's."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_libmtl import TASKS, Encoder, ListEncoder, batches, make
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from libmtl_recon import ReconError, extract_task, only_task, split_layers
from libmtl_recon.architecture import task_parameters
from libmtl_recon.architecture.state import plain_names


def block(given: int, gives: int, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(given, gives, size, padding=size // 2), nn.BatchNorm2d(gives), nn.ReLU(True)
    )


class Attention(nn.Module):
    """A small SegNet with attention: shared blocks down and up, a mask per task on each.

    Args:
        give: What it makes of the list of entries.
    """

    def __init__(self, give: Callable[[list[Tensor]], Any] = list, recompute: bool = False) -> None:
        super().__init__()
        self.give, self.recompute = give, recompute
        self.down = nn.ModuleList([block(3, 4), block(4, 6)])
        self.again = nn.ModuleList([block(4, 4), block(6, 6)])
        self.up = nn.ModuleList([block(6, 4), block(4, 4)])
        # By task, then by stage; what follows a mask is one for all tasks.
        self.masks = nn.ModuleList(
            [nn.ModuleList([self.mask(4, 4), self.mask(10, 6), self.mask(8, 4)]) for _ in TASKS]
        )
        self.next = nn.ModuleList([block(4, 4), block(6, 4)])
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)

    @staticmethod
    def mask(given: int, gives: int) -> nn.Sequential:
        return nn.Sequential(*block(given, gives, 1), nn.Conv2d(gives, gives, 1), nn.Sigmoid())

    def forward(self, x: Tensor, wanted: Sequence[int] = range(len(TASKS))) -> Any:
        first = self.down[0](x)
        seen = self.again[0](first)
        small, where = self.pool(seen)
        second = self.down[1](small)
        inner = self.again[1](second)
        back = self.up[0](inner)
        large = self.up[1](self.unpool(back, where))
        found: list[Any] = [None] * len(TASKS)
        for task in wanted:
            run = self.entry
            given = (task, first, seen, second, inner, back, large)
            found[task] = checkpoint(run, *given, use_reentrant=False) if self.recompute else run(
                *given
            )
        return self.give(found)

    def entry(self, task: int, *given: Tensor) -> Tensor:
        first, seen, second, inner, back, large = given
        masks = self.masks[task]
        own = nn.functional.max_pool2d(self.next[0](masks[0](first) * seen), 2)
        own = masks[1](torch.cat((second, own), 1)) * inner
        own = nn.functional.interpolate(self.next[1](own), size=back.shape[-2:])
        own = masks[2](torch.cat((back, own), 1))
        return nn.functional.interpolate(own, scale_factor=2.0) * large


def image() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()


def keyed(entries: list[Tensor]) -> dict[str, Tensor]:
    return dict(zip(TASKS, entries, strict=True))


def entry(output: Any, place: int) -> Any:
    return output[TASKS[place]] if isinstance(output, dict) else output[place]


def built(**changes: Any) -> Attention:
    torch.manual_seed(0)
    return Attention(**changes).double()


def part_ways(split: nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for task in TASKS:
            for value in task_parameters(split, task).values():
                if isinstance(value, nn.Parameter):
                    value.add_(0.1 * torch.randn_like(value))


def of_task(split: nn.Module, task: str) -> dict[str, Tensor]:
    """The state of a plain network that is one task's."""
    state = split.state_dict()
    return {
        plain: state[next((k for k in keys if f"tasks.{task}." in k), keys[0])]
        for plain, keys in plain_names(split).items()
    }


FIRST = ["down.0.0"]
LAYERS = {
    "first": FIRST,
    "middle": ["again.1.1", "next.0.1"],
    "the masks'": ["masks.0.1.0", "masks.1.0.1", "masks.2.2.3"],
    "what follows masks": ["next.0.0", "next.1.1"],
    "last": ["up.1.1"],
    "many": ["down.1.0", "up.0.1", "masks.1.1.1", "next.1.0"],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("give", [list, tuple, keyed])
def test_each_entry_is_a_plain_network_of_its_task(
    give: Callable[[list[Tensor]], Any], layers: list[str]
) -> None:
    split = split_layers(built(give=give), layers, TASKS, per_task_output=True)
    part_ways(split)
    plain = {task: built(give=give) for task in TASKS}
    for task, network in plain.items():
        network.load_state_dict(of_task(split, task))
    before_split = {
        name: value for name, value in split.state_dict().items() if ".tasks." not in name
    }
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.1) for n in (split, *plain.values())]
    for step in range(3):
        found = split(image() + step)
        assert type(found) is type(give([torch.ones(1)] * len(TASKS)))
        expected = {t: entry(n(image() + step, [i]), i) for i, (t, n) in enumerate(plain.items())}
        for place, task in enumerate(TASKS):
            assert type(entry(found, place)) is Tensor
            assert torch.equal(entry(found, place), expected[task]), (step, task)
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum((i + 1) * entry(found, i).square().mean() for i in range(3)).backward()
        for i, task in enumerate(TASKS):
            ((i + 1) * expected[task].square().mean()).backward()
        gradients = {
            t: {n: p.grad for n, p in network.named_parameters()} for t, network in plain.items()
        }
        for name, p in split.named_parameters():
            if name in gradients["a"]:
                each = [gradients[t][name] for t in TASKS if gradients[t][name] is not None]
                torch.testing.assert_close(p.grad, sum(each), rtol=1e-9, atol=1e-14)
        for task in TASKS:
            for name, value in task_parameters(split, task).items():
                if isinstance(value, nn.Parameter):
                    assert (value.grad is None) == (gradients[task][name] is None)
                    if value.grad is not None:
                        assert torch.equal(value.grad, gradients[task][name]), (step, task, name)
        optimizers[0].step()
        compare_statistics(split, plain, step + 1)
        for task, network in plain.items():
            network.load_state_dict(of_task(split, task))
    for network in (split, *plain.values()):
        network.eval()
    with torch.no_grad():
        found = split(image())
        for place, task in enumerate(TASKS):
            assert torch.equal(entry(found, place), entry(plain[task](image(), [place]), place))
    assert before_split.keys()


def compare_statistics(split: nn.Module, plain: dict[str, Attention], steps: int) -> None:
    """A norm's statistics are each task's own behind the split, and all entries' before it."""
    state = split.state_dict()
    for task in TASKS:
        own = plain[task].state_dict()
        for name, keys in plain_names(split).items():
            if "running" not in name and "num_batches" not in name:
                continue
            mine = [key for key in keys if f"tasks.{task}." in key]
            if mine:
                assert torch.equal(state[mine[0]], own[name]), (task, name)
            elif name.startswith("next") and name.endswith("tracked"):
                assert int(state[name]) == steps * len(TASKS)
            elif name.startswith("down.0"):
                assert torch.equal(state[name], own[name]), (task, name)
