"""Networks that give containers of tensors, also of types with ideas of their own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon.splitting import TaskTensor, only_task, split_layers


@dataclass(frozen=True)
class Frozen:
    value: Tensor
    count: int = 3


class Named(NamedTuple):
    value: Tensor


class Output(OrderedDict[str, Any]):
    """As those of Hugging Face's Transformers, which are read by attribute and not updated."""

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def update(self, *_: Any, **__: Any) -> None:
        raise TypeError("cannot be updated")


class Gives(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(2, 2), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.layer(x))


def output(value: Tensor) -> Output:
    made = Output()
    made["value"] = value
    return made


@pytest.mark.parametrize(
    ("make", "kind"),
    [(Frozen, Frozen), (Named, Named), (output, Output), (lambda v: Frozen((v, 1)), Frozen)],
)
def test_one_task_alone_gives_plain_tensors_in_them(make: Callable[..., Any], kind: type) -> None:
    split = split_layers(Gives(make), ["layer"], ["a", "b"])
    x = torch.ones(1, 2)
    both = split(x).value
    with only_task(split, "b"):
        found = split(x)
    assert type(found) is kind
    alone, both = (v[0] if isinstance(v, tuple) else v for v in (found.value, both))
    assert type(both) is TaskTensor
    assert type(alone) is Tensor
    assert torch.equal(alone, both.parts[1])
