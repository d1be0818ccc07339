"""A bundle does what a tensor does, once a task."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from libmtl_recon import Bundle, ReconError


def pair() -> Bundle:
    return Bundle([torch.arange(6.0).reshape(2, 3), 10 + torch.arange(6.0).reshape(2, 3)])


PLAIN = torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])

OPERATIONS = {
    "bundle + plain": lambda b: b + PLAIN,
    "plain + bundle": lambda b: PLAIN + b,
    "number - bundle": lambda b: 3 - b,
    "number / bundle": lambda b: 2 / (b + 1),
    "number ** bundle": lambda b: 2**b,
    "matmul": lambda b: b @ PLAIN.T,
    "reverse matmul": lambda b: PLAIN @ b.T,
    "comparison": lambda b: (b > 3) & (b != 11),
    "negation": lambda b: -abs(b - 4),
    "method": lambda b: b.view(3, 2).transpose(0, 1).contiguous(),
    "method with keywords": lambda b: b.sum(dim=1, keepdim=True),
    "property": lambda b: b.T,
    "index": lambda b: b[:, 1:],
    "index by a bundle": lambda b: PLAIN[b.long() % 2, 0],
    "cat": lambda b: torch.cat([PLAIN, b, b], dim=1),
    "stack of a tuple": lambda b: torch.stack((b, PLAIN)),
    "einsum": lambda b: torch.einsum("ij,kj->ik", PLAIN, b),
    "module": lambda b: nn.functional.layer_norm(nn.functional.gelu(b), (3,)),
    "where": lambda b: torch.where(PLAIN > 0, b, PLAIN),
    "iteration": lambda b: sum(row * (i + 1) for i, row in enumerate(b)),
    "unpacking": lambda b: b.chunk(3, dim=1)[2],
    "named tuple": lambda b: b.max(dim=1).values,
    "relu in place": lambda b: torch.relu_(b.clone() - 4),
    "operator in place": lambda b: _add_to(b.clone(), PLAIN),
    "operator in place on a plain tensor": lambda b: _add_to(PLAIN.clone(), b),
    "assignment to an index": lambda b: _assign(b.clone(), PLAIN),
}


def _add_to(x: Tensor, y: Tensor) -> Tensor:
    x += y
    x *= 2
    return x


def _assign(x: Tensor, y: Tensor) -> Tensor:
    x[0] = y[1]
    return x


@pytest.mark.parametrize("name", OPERATIONS)
def test_runs_once_a_task(name: str) -> None:
    operation = OPERATIONS[name]
    together = operation(pair())
    assert type(together) is Bundle
    for part, alone in zip(together.parts, pair().parts, strict=True):
        assert torch.equal(part, operation(alone))


def test_what_is_no_tensor_is_returned_as_it_is() -> None:
    both = pair()
    assert both.shape == (2, 3)
    assert isinstance(both.size(), torch.Size)
    assert (both.dim(), len(both), both.numel(), both.dtype) == (2, 2, 6, torch.float32)
    assert both.device == torch.device("cpu")
    assert isinstance(both, Tensor)
    assert torch.is_tensor(both)


def test_a_plain_tensor_is_not_changed_by_an_operator_on_its_copy() -> None:
    plain = PLAIN.clone()
    _add_to(plain, pair())
    assert torch.equal(plain, PLAIN)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda x, b: x.add_(b), "add_"),
        (lambda x, b: x.__setitem__(0, b[0]), "x = x \\+ y"),
        (lambda x, b: torch.add(x, b, out=x), "out="),
        (lambda x, b: x.copy_(b), "copy_"),
    ],
)
def test_refuses_to_write_a_tasks_values_into_a_shared_tensor(write: object, said: str) -> None:
    with pytest.raises(ReconError, match=said):
        write(PLAIN.clone(), pair())


def test_refuses_control_flow_on_which_tasks_disagree() -> None:
    with pytest.raises(ReconError, match="different value for each task"):
        bool((pair() > 5).any())
    assert bool((pair() >= 0).all())
    with pytest.raises(ReconError, match="different value for each task"):
        pair().sum().item()


def test_refuses_bundles_of_different_tasks() -> None:
    with pytest.raises(ReconError, match="2, 3"):
        pair() + Bundle([PLAIN] * 3)


def test_a_view_of_a_shared_tensor_stays_shared() -> None:
    expanded = PLAIN[:1].expand_as(pair())
    assert type(expanded) is Tensor


def test_gradients_reach_each_part() -> None:
    parts = [torch.ones(2, requires_grad=True) for _ in range(2)]
    out = Bundle(parts) * torch.tensor([1.0, 2.0])
    (out.parts[1] * 3).sum().backward()
    assert parts[0].grad is None
    assert parts[1].grad.tolist() == [3.0, 6.0]
