"""A task tensor does what a tensor does, once per task."""

from __future__ import annotations

import copy
import math
import pickle
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from libmtl_recon import ReconError, TaskTensor
from libmtl_recon.splitting import per_task_calls


def pair() -> TaskTensor:
    return TaskTensor([torch.arange(6.0).reshape(2, 3), 10 + torch.arange(6.0).reshape(2, 3)])


PLAIN = torch.tensor([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]])

OPERATIONS = {
    "task tensor + plain": lambda b: b + PLAIN,
    "plain + task tensor": lambda b: PLAIN + b,
    "number - task tensor": lambda b: 3 - b,
    "number / task tensor": lambda b: 2 / (b + 1),
    "number ** task tensor": lambda b: 2**b,
    "matmul": lambda b: b @ PLAIN.T,
    "reverse matmul": lambda b: PLAIN @ b.T,
    "comparison": lambda b: (b > 3) & (b != 11),
    "negation": lambda b: -abs(b - 4),
    "method": lambda b: b.view(3, 2).transpose(0, 1).contiguous(),
    "method with keywords": lambda b: b.sum(dim=1, keepdim=True),
    "property": lambda b: b.T,
    "index": lambda b: b[:, 1:],
    "index by a task tensor": lambda b: PLAIN[b.long() % 2, 0],
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
    "logical operator in place on a plain tensor": lambda b: _and_to(PLAIN.clone(), b),
    "matmul in place": lambda b: _matmul_to(b.clone(), PLAIN.T),
    "as_tensor": lambda b: torch.as_tensor(b) + 1,
    "foreach": lambda b: torch._foreach_add([b, b], 1)[1],
    "assignment to an index": lambda b: _assign(b.clone(), PLAIN),
}


def _add_to(x: Tensor, y: Tensor) -> Tensor:
    x += y
    x *= 2
    return x


def _matmul_to(x: Tensor, y: Tensor) -> Tensor:
    x @= y
    return x


def _and_to(x: Tensor, y: Tensor) -> Tensor:
    x = x > 0
    x &= y > 2
    return x


def _assign(x: Tensor, y: Tensor) -> Tensor:
    x[0] = y[1]
    return x


@pytest.mark.parametrize("name", OPERATIONS)
def test_runs_once_per_task(name: str) -> None:
    operation = OPERATIONS[name]
    together = operation(pair())
    assert type(together) is TaskTensor
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


def test_refuses_control_flow_on_which_tasks_disagree() -> None:
    with pytest.raises(ReconError, match="different values for the tasks"):
        bool((pair() > 5).any())
    assert bool((pair() >= 0).all())
    with pytest.raises(ReconError, match="different values for the tasks"):
        pair().sum().item()


def test_refuses_task_tensors_of_different_tasks() -> None:
    with pytest.raises(ReconError, match="2, 3"):
        pair() + TaskTensor([PLAIN] * 3)


def test_a_view_of_a_shared_tensor_stays_shared() -> None:
    expanded = PLAIN[:1].expand_as(pair())
    assert type(expanded) is Tensor


def test_gradients_reach_each_part() -> None:
    parts = [torch.ones(2, requires_grad=True) for _ in range(2)]
    out = TaskTensor(parts) * torch.tensor([1.0, 2.0])
    (out.parts[1] * 3).sum().backward()
    assert parts[0].grad is None
    assert parts[1].grad.tolist() == [3.0, 6.0]


class Double(torch.autograd.Function):
    """A custom function whose gradient is wrong on purpose, so that it is seen to be used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


Point = namedtuple("Point", ["x", "y"])


def leaves(tasks: int = 2) -> TaskTensor:
    return TaskTensor(
        [torch.full((2, 3), float(task), requires_grad=True) for task in range(tasks)]
    )


def test_a_named_tuple_stays_one() -> None:
    together = torch.stack(Point(pair(), PLAIN))
    assert torch.equal(together.parts[1], torch.stack([pair().parts[1], PLAIN]))
    packed = nn.utils.rnn.pack_padded_sequence(pair(), [3, 2], batch_first=True)
    assert type(packed.data) is TaskTensor
    assert type(pair().max(dim=1)).__name__ == "max"


def test_refuses_to_keep_running_statistics_of_all_tasks_in_one_buffer() -> None:
    mean, variance = torch.zeros(3), torch.ones(3)
    with pytest.raises(ReconError, match="batch_norm"):
        nn.functional.batch_norm(pair(), mean, variance, training=True)
    assert not mean.any()
    out = nn.functional.batch_norm(pair(), mean, variance, training=False)
    assert type(out) is TaskTensor


def test_views_of_a_shared_tensor_that_differ_are_a_task_tensor() -> None:
    which = TaskTensor([torch.tensor(0), torch.tensor(1)])
    rows = PLAIN[which]
    assert torch.equal(torch.stack(rows.parts), PLAIN)


def test_parts_that_are_views_of_one_tensor_stay_apart() -> None:
    both = TaskTensor(torch.stack([PLAIN, PLAIN + 1]).unbind())
    for part, plain in zip(both.T.parts, (PLAIN.T, PLAIN.T + 1), strict=True):
        assert torch.equal(part, plain)
    same = TaskTensor([PLAIN.view(3, 2), PLAIN.view(3, 2)])
    assert type(same.T) is TaskTensor


def test_setting_data_and_gradients_keeps_the_parts_apart() -> None:
    both = leaves()
    both.data = PLAIN
    both.grad = torch.zeros(2, 3)
    first, second = both.parts
    with torch.no_grad():
        first.add_(1)
        first.grad.add_(1)
    assert torch.equal(second, PLAIN)
    assert not second.grad.any()
    both.requires_grad = False
    assert not second.requires_grad


def test_agrees_that_what_is_not_a_number_is_not() -> None:
    nan = TaskTensor([torch.tensor(math.nan), torch.tensor(math.nan)])
    assert math.isnan(nan.item())


def test_is_refused_as_an_array() -> None:
    for convert in (np.asarray, lambda b: b.numpy()):
        with pytest.raises(ReconError, match="NumPy"):
            convert(pair())


def test_is_refused_below_the_torch_functions_instead_of_computing_rubbish() -> None:
    with torch._C.DisableTorchFunctionSubclass(), pytest.raises(ReconError, match=r"aten\.add"):
        torch.add(pair(), 1)


def test_custom_functions_run_once_per_task_with_their_own_gradients() -> None:
    both = leaves()
    with per_task_calls():
        out = Double.apply(both, 7.0)
    (out.parts[1] * PLAIN).sum().backward()
    assert both.parts[0].grad is None
    assert torch.equal(both.parts[1].grad, 7 * PLAIN)
    plain = torch.ones(2, requires_grad=True)
    with per_task_calls():
        Double.apply(plain, 3.0).sum().backward()
    assert plain.grad.tolist() == [3.0, 3.0], "without a task tensor nothing changed"
    with pytest.raises(ReconError, match="per_task_calls"):
        Double.apply(both, 7.0).parts  # noqa: B018


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints_give_the_same_gradients(reentrant: bool) -> None:
    both = leaves()
    weight = torch.ones(3, requires_grad=True)
    with per_task_calls():
        out = checkpoint(lambda x: torch.tanh(x * weight), both, use_reentrant=reentrant)
    sum(part.sum() for part in out.parts).backward()
    expected = [1 - torch.tanh(part.detach()) ** 2 for part in both.parts]
    for part, gradient in zip(both.parts, expected, strict=True):
        torch.testing.assert_close(part.grad, gradient)
    torch.testing.assert_close(weight.grad, expected[1].sum(0))


def test_a_reentrant_checkpoint_around_a_split_layer_is_refused() -> None:
    plain, own = torch.ones(2, 3, requires_grad=True), leaves()
    out = checkpoint(lambda x: x * own, plain, use_reentrant=True)
    with pytest.raises(ReconError, match="use_reentrant=False"):
        list(out.parts)
    with pytest.raises(ReconError, match="use_reentrant=False"):
        out + 1


def test_copies_of_task_tensors_are_task_tensors() -> None:
    for other in (copy.deepcopy(leaves()), pickle.loads(pickle.dumps(leaves()))):
        assert type(other) is TaskTensor
        assert other.parts[1].tolist() == [[1.0] * 3] * 2
        assert other.parts[1].requires_grad
    with pytest.raises(ReconError, match="plain tensor per task"):
        TaskTensor([pair(), pair()])


def test_mixed_precision_as_for_one_task() -> None:
    weight = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        together = nn.functional.linear(pair(), weight)
        alone = [nn.functional.linear(part, weight) for part in pair().parts]
    assert together.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(together.parts, alone, strict=True))
