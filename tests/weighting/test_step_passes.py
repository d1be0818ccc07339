"""What one step leaves behind: a freed graph, hooks that ran once, and memory for the next."""

from __future__ import annotations

import copy
import gc
import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon.errors import ReconError
from libmtl_recon.gradients import recording
from libmtl_recon.gradients.recording import record_afterwards
from libmtl_recon.weighting.step import step

WEIGHTS = torch.tensor([0.5, -2.0], dtype=torch.float64)
# At 40 positions rows are stored; at 2, products take their place.
POSITIONS = {"stored": 40, "products": 2}


class Model(nn.Module):
    """A wide trunk and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 30))
        self.heads = nn.ModuleList(nn.Linear(30, 1) for _ in range(2))
        self.double()

    def losses(self, x: Tensor) -> list[Tensor]:
        z = self.trunk(x)
        return [(head(z) - place).square().mean() for place, head in enumerate(self.heads)]


def made(way: str) -> tuple[Model, Tensor]:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(POSITIONS[way], 6, dtype=torch.float64)
    assert record_afterwards(model).plan(model.losses(x)).stored == (way == "stored")
    return model, x


def wanted(model: Model, x: Tensor) -> dict[str, Tensor]:
    """The gradients that a step with WEIGHTS adds, by the parameters' names."""
    losses, found = model.losses(x), {}
    for name, parameter in model.named_parameters():
        factors = WEIGHTS if name.startswith("trunk") else torch.ones(2)
        total = sum(factor * loss for factor, loss in zip(factors, losses, strict=True))
        (found[name],) = torch.autograd.grad(total, parameter, retain_graph=True)
    return found


@pytest.mark.parametrize("way", POSITIONS)
def test_a_second_call_is_refused_and_adds_nothing(way: str) -> None:
    model, x = made(way)
    expected, losses = wanted(model, x), model.losses(x)
    step(losses, model, lambda m: WEIGHTS)
    with pytest.raises(ReconError, match=r"freed by an earlier backward pass\. Call step instead"):
        step(losses, model, lambda m: WEIGHTS)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-10, atol=1e-14)
    with pytest.raises(RuntimeError, match="a second time"):
        sum(losses).backward()


def test_a_record_is_used_once_as_well() -> None:
    model, x = made("stored")
    with recording(model) as record:
        losses = model.losses(x)
    for _ in range(2):  # the graph stays until the update
        record.gramian(losses)
    record.backward(WEIGHTS)
    before = copy.deepcopy([p.grad for p in model.parameters()])
    with pytest.raises(ReconError, match=r"were already added by record\.backward"):
        record.gramian(losses)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))


def on_accumulation(parameter: nn.Parameter, hook: Callable[..., None]) -> object:
    parameter.register_post_accumulate_grad_hook(hook)
    return None


def on_the_node(parameter: nn.Parameter, hook: Callable[..., None]) -> object:
    """As torch's own optimizers in backward register theirs; the node must be kept."""
    node = parameter.view_as(parameter).grad_fn.next_functions[0][0]
    node.register_hook(lambda *_: hook(parameter))
    return node


@pytest.mark.parametrize("way", POSITIONS)
@pytest.mark.parametrize("register", [on_accumulation, on_the_node])
def test_an_optimizer_in_a_hook_steps_once_with_the_final_gradient(
    way: str, register: Callable[..., object]
) -> None:
    model, x = made(way)
    expected = wanted(model, x)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    calls: list[int] = []

    def descend(parameter: nn.Parameter) -> None:
        calls.append(id(parameter))
        with torch.no_grad():
            parameter -= 0.1 * parameter.grad
        parameter.grad = None

    nodes = [register(parameter, descend) for parameter in model.parameters()]
    step(model.losses(x), model, lambda m: WEIGHTS)
    assert sorted(calls) == sorted(id(parameter) for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * expected[name])
    del nodes


def test_a_hook_of_a_gradient_sees_each_tasks_and_not_their_sum() -> None:
    model, x = made("stored")
    rows: list[Tensor] = []
    for parameter in (model.trunk[0].weight, model.heads[0].bias):
        parameter.register_hook(lambda gradient: rows.append(gradient.clone()) or gradient * 2)
    expected = wanted(model, x)
    rows.clear()
    step(model.losses(x), model, lambda m: WEIGHTS)
    shared = [row for row in rows if row.shape == (30, 6)]
    assert [len(shared), len(rows)] == [2, 3]
    total = 2 * (WEIGHTS[0] * shared[0] + WEIGHTS[1] * shared[1])
    torch.testing.assert_close(model.trunk[0].weight.grad, total)
    # `expected` was computed with the hooks, too.
    torch.testing.assert_close(model.trunk[0].weight.grad, expected["trunk.0.weight"])
    torch.testing.assert_close(model.heads[0].bias.grad, expected["heads.0.bias"])
    assert model.heads[0].bias._backward_hooks, "the hooks stay"


def test_a_network_is_searched_for_wrappers_once_and_its_rows_keep_their_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("libmtl_recon.weighting.step")
    searched: list[nn.Module] = []
    search = module._found_sending
    monkeypatch.setattr(
        module, "_found_sending", lambda network: searched.append(network) or search(network)
    )
    model, x = made("stored")
    places = []
    for _ in range(3):
        step(model.losses(x), model, lambda m: WEIGHTS)
        (matrix,) = module._memory[model]._matrices
        places.append(matrix.whole.data_ptr())
        assert matrix.whole.data_ptr() not in [p.grad.data_ptr() for p in model.parameters()]
    assert searched == [model]
    assert len(set(places)) == 1
    searched.clear()
    del model
    gc.collect()
    assert not any(isinstance(key, Model) for key in module._memory)
