"""What writes a task's values into a tensor that all tasks share."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain import Twins, total
from sample_networks import rows
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from libmtl_recon import ReconError, TaskTensor
from libmtl_recon.splitting import split_layers

PLAIN = torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])


def pair() -> TaskTensor:
    return TaskTensor([torch.arange(6.0).reshape(2, 3), 10 + torch.arange(6.0).reshape(2, 3)])


class Passes(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


MODES = [contextlib.nullcontext, lambda: torch.device("cpu"), Passes]
WRITES: dict[str, Callable[[Tensor, Any], Any]] = {
    "method": lambda x, b: x.add_(b),
    "assignment to an index": lambda x, b: x.__setitem__(0, b[0]),
    "copy": lambda x, b: x.copy_(b),
    "masked fill": lambda x, b: x.masked_fill_(b > 3, 0.0),
    "keyword": lambda x, b: x.clamp_(min=b),
    "operator": operator.iadd,
    "with itself": lambda x, b: x.addcmul_(x, b),
    "function": lambda x, b: torch.relu_(x.sub_(b)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_to_is_a_task_tensor_by_all_its_names(
    name: str, mode: Callable[[], Any]
) -> None:
    plain = PLAIN.clone()
    held = {"elsewhere": [plain]}
    with mode(), mode():
        WRITES[name](plain, pair())
    assert type(plain) is TaskTensor
    assert held["elsewhere"][0] is plain
    for part, own in zip(plain.parts, pair().parts, strict=True):
        expected = PLAIN.clone()
        WRITES[name](expected, own)
        assert torch.equal(part, expected)


@pytest.mark.parametrize("mode", MODES)
def test_operators(mode: Callable[[], Any]) -> None:
    plain, row = PLAIN * 2, [PLAIN * 2]
    first, second = plain, row[0]
    plain.label = "residual"
    with mode(), mode():
        plain += pair()
        row[0] -= pair()
    assert first is plain
    assert plain.label == "residual"
    assert second is row[0]
    for index in range(2):
        assert torch.equal(plain.parts[index], PLAIN * 2 + pair().parts[index])
        assert torch.equal(row[0].parts[index], PLAIN * 2 - pair().parts[index])


VIEWS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "the tensor of a view": lambda x: (x[0], x),
    "a view": lambda x: (x, x.view(3, 2)),
    "another view": lambda x: (x[0], x[1]),
    "a detached tensor": lambda x: (x, x.detach()),
    "a detached view": lambda x: (x, x.detach().T),
    "its data": lambda x: (x, x.data),
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", VIEWS)
def test_refuses_to_leave_old_values_in_what_shares_the_memory(name: str, gradients: bool) -> None:
    leaf = PLAIN.clone().requires_grad_(gradients)
    written, other = VIEWS[name](leaf * 1)
    before = other.clone()
    with pytest.raises(ReconError, match="used elsewhere"):
        written += pair()[0]
    assert torch.equal(other, before)
    leaf = leaf * 1
    with pytest.raises(ReconError, match="used elsewhere"):
        leaf[0] *= pair()[0]
    assert torch.equal(leaf, PLAIN)


def test_refuses_what_plain_networks_cannot_differentiate_either() -> None:
    leaf = PLAIN.clone().requires_grad_()
    squared = (x := leaf * 1) * x
    with pytest.raises(ReconError, match="in the backward pass"):
        x += pair()
    x = leaf.sigmoid()
    with pytest.raises(ReconError, match="in the backward pass"):
        x += pair()
    y = leaf.sigmoid()
    y += 1
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()
    squared.sum().backward()
    assert torch.equal(leaf.grad, 2 * PLAIN)


def test_a_view_that_nothing_else_sees_is_written_to() -> None:
    leaf = PLAIN.clone().requires_grad_()
    x = (leaf * 1).view(3, 2).T
    x += pair().view(3, 2).T
    x.parts[1].sum().backward()
    assert torch.equal(x.parts[1], (PLAIN + pair().parts[1]).view(3, 2).T)
    assert torch.equal(leaf.grad, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda x, b: torch.add(x, b, out=x), "out="),
        (lambda x, b: torch.max(b, 1, out=(x[:, 0], x[:, 1].long())), "out="),
        (lambda x, b: torch._foreach_add_([x], [b]), "_foreach_add_"),
        (lambda x, b: nn.Parameter(x).data.requires_grad_().mul_(b), "mul_ would write"),
        (lambda x, b: nn.Parameter(x, requires_grad=False).mul_(b), "mul_ would write"),
        (lambda x, b: x.to_sparse().add_(b), "add_ would write"),
    ],
)
def test_refuses_to_write_where_all_tasks_read(write: Any, said: str) -> None:
    with pytest.raises(ReconError, match=said):
        write(PLAIN.clone(), pair())


def test_a_write_that_fails_leaves_the_tensor_as_it_was() -> None:
    plain = PLAIN.clone()
    with pytest.raises(RuntimeError):
        plain += pair()[:, :2]
    assert type(plain) is Tensor
    assert torch.equal(plain, PLAIN)


def test_what_one_task_writes_is_its_alone() -> None:
    x = PLAIN.clone()
    x += TaskTensor([PLAIN], task=1, tasks=["a", "b"])
    assert x.task == 1
    assert torch.equal(x["b"], 2 * PLAIN)
    y = PLAIN.clone()
    y.addcmul_(pair(), TaskTensor([PLAIN], task=1))
    assert y.task == 1
    assert torch.equal(y.parts[0], PLAIN + pair().parts[1] * PLAIN)


class Residual(nn.Module):
    """Adds in place, under a second name, with a skip connection that is read afterwards."""

    def __init__(self, write: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.shared, self.own, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.shared(x)
        kept = [hidden]
        self.write(hidden, self.own(x))
        return self.last(torch.tanh(hidden)) + kept[0].sum()


def _assign(x: Tensor, y: Tensor) -> None:
    x[:, 1:] = y[:, 1:]


@pytest.mark.parametrize("write", [operator.iadd, Tensor.add_, _assign])
def test_networks_that_write_in_place_train_as_each_tasks_own(write: Any) -> None:
    twins = Twins(Residual(write), ["own"], ("a", "b", "c"))
    optimizer = torch.optim.SGD(twins.split.parameters(), lr=0.1)
    for _ in range(3):
        twins.train_step(rows().double(), optimizer)
    twins.split.eval()
    with torch.inference_mode():
        twins.assert_equal(rows())


class OntoInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x += self.position
        return x


def test_refuses_to_write_to_the_networks_input() -> None:
    network = split_layers(OntoInput(), ["(root)"], ["a", "b"])
    x = rows()
    with pytest.raises(ReconError, match="add_ would write"):
        network(x)
    assert torch.equal(x, rows())


class OntoBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += self.layer(x).detach().mean(0)
        return self.seen


def test_refuses_to_write_to_a_buffer_and_leaves_it() -> None:
    network = split_layers(OntoBuffer(), ["layer"], ["a", "b"])
    with pytest.raises(ReconError, match="add_ would write"):
        network(rows())
    assert torch.equal(network.state_dict()["seen"], torch.zeros(4))


def test_gradients_reach_the_shared_tensor_from_each_task() -> None:
    leaf = PLAIN.clone().requires_grad_()
    x = leaf * 3
    x *= pair()
    total(list(x.parts)).backward()
    # Of (n + 1) * mean((3 * leaf * part) ** 2), over six elements.
    expected = sum((n + 1) * 3 * PLAIN * part**2 for n, part in enumerate(pair().parts))
    torch.testing.assert_close(leaf.grad, expected)
