"""Split networks inside of what `torch.compile` compiled."""

from __future__ import annotations

import pytest
import torch
from plain import Twins, total
from sample_networks import normed, rows
from torch import Tensor, nn

from libmtl_recon.splitting import TaskTensor, is_split, only_task, split_layers, task_parameters


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
    assert type(found) is TaskTensor
    for part, other in zip(found.parts, expected.parts, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-12, atol=1e-14)
    total(list(found.parts)).backward()
    for parameter, gradient in zip(whole.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-13)
    with only_task(twins.split, "b"):
        alone = torch.compile(twins.split, backend=backend)(x)
        assert torch.equal(alone, twins.split(x))
    torch.compiler.reset()


def test_one_task_is_chosen_by_the_compiled_network_too() -> None:
    split = split_layers(normed(0.1), ["0"], ["a", "b"]).eval()
    compiled = torch.compile(split, backend="eager")
    assert is_split(compiled)
    assert task_parameters(compiled, "b").keys() == task_parameters(split, "b").keys()
    with only_task(compiled, "b"):
        assert type(split(rows())) is Tensor


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_function_may_call_the_layers_itself(backend: str) -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True))
    split = split_layers(layers, ["0", "1"], ["a", "b"])

    def forward(x: Tensor) -> TaskTensor:
        output: TaskTensor = split[1](split[0](x))[0]
        return output

    x = torch.randn(3, 2, 4)
    torch.compiler.reset()
    found = torch.compile(forward, backend=backend)(x)
    for part, other in zip(found.parts, forward(x).parts, strict=True):
        assert torch.equal(part, other)
    torch.compiler.reset()
