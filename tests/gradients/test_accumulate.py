"""Gradients add up in ``.grad``, in library calls as in torch's backward passes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from libmtl_recon.gradients import TaskRows, scatter_gradient, task_gradients
from libmtl_recon.gradients.accumulate import add_gradient, added_up


def leaf(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64, requires_grad=True)


def sparse_rows(rows: list[int], value: float) -> Tensor:
    values = torch.full((len(rows), 2), value, dtype=torch.float64)
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (4, 2), check_invariants=True)


def test_scattered_gradients_add_up_and_stay_the_same_tensor() -> None:
    first, frozen, last = leaf(2), leaf(3).requires_grad_(False), leaf(1)
    own = torch.tensor([10.0, 20.0], dtype=torch.float64)
    first.grad = own
    vector = torch.arange(6.0, dtype=torch.float64)
    scatter_gradient(vector, [first, frozen, last])
    assert first.grad is own
    assert own.tolist() == [10.0, 21.0]
    assert frozen.grad is None
    assert last.grad is not None
    assert last.grad.data_ptr() == vector[5:].data_ptr()  # a view where there was none
    scatter_gradient(torch.ones(6, dtype=torch.float64), [first, frozen, last])
    assert (own.tolist(), last.grad.tolist()) == ([11.0, 22.0], [6.0])


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
def test_library_calls_add_up_as_one_backward_pass_of_all(batches: list[list[bool]]) -> None:
    # Each micro-batch reaches some of three parameters, with two tasks of weights 2 and -1.
    shared, head = [leaf(2), leaf(3), leaf(1)], leaf(2)
    wanted = [torch.zeros_like(p) for p in (*shared, head)]
    rows = TaskRows()
    other = [p.detach().clone().requires_grad_() for p in shared]
    for number, reached in enumerate(batches, start=1):
        for parameters, library in ((shared, True), (other, False)):
            used = [p.sum() for p, hit in zip(parameters, reached, strict=True) if hit]
            trunk = torch.stack([*used, head.sum() * 0]).sum()
            losses = [number * trunk + head[0], number * trunk * 3 - head[1]]
            if library:
                found = task_gradients(losses, parameters, [head])
                scatter_gradient(2 * found[0] - found[1], parameters)
            else:
                rows.begin()
                roots = [([loss], None) for loss in losses]
                found = rows.fill(roots, parameters, accumulate=True)  # type: ignore[arg-type]
                rows.scatter(2 * found[0] - found[1], parameters)
        for place, hit in enumerate(reached):
            wanted[place] -= number * hit  # 2 - 3 of them
        wanted[3] += torch.tensor([2.0, -2.0], dtype=torch.float64)  # by both ways
    assert head.grad is not None
    assert head.grad.tolist() == wanted[3].tolist()
    for place, (one, two) in enumerate(zip(shared, other, strict=True)):
        assert one.grad is not None
        assert one.grad.tolist() == wanted[place].tolist()
        if any(reached[place] for reached in batches):
            assert two.grad is not None
            assert two.grad.tolist() == wanted[place].tolist()
        else:
            assert two.grad is None


def test_rows_do_not_hold_what_was_there_before() -> None:
    parameter, rows = leaf(2), TaskRows()
    before = torch.tensor([5.0, 5.0], dtype=torch.float64)
    parameter.grad = before
    found = rows.fill([([parameter.sum()], None)], [parameter], accumulate=True)
    assert found.tolist() == [[1.0, 1.0]]
    rows.scatter(found[0].clone(), [parameter])
    assert parameter.grad is before
    assert before.tolist() == [6.0, 6.0]


def test_what_the_rows_took_is_written_over_if_asked() -> None:
    parameter, other, rows = leaf(2), leaf(1), TaskRows()
    parameter.grad, other.grad = torch.ones_like(parameter), torch.ones_like(other)
    found = rows.fill([([parameter.sum()], None)], [parameter, other], accumulate=True)
    rows.scatter(3 * found[0], [parameter, other], overwrite=True)
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [3.0, 3.0]
    assert other.grad is None


def test_zeros_of_what_is_not_reached_are_no_gradient() -> None:
    reached, not_reached, kept = leaf(2), leaf(2), leaf(2)
    reached.grad, not_reached.grad = torch.zeros_like(reached), torch.zeros_like(not_reached)
    kept.grad = torch.tensor([0.0, 1.0], dtype=torch.float64)
    embedding = leaf(4, 2)
    embedding.grad = sparse_rows([1], 1.0).zero_()
    with added_up([reached, not_reached, kept, embedding]):
        reached.sum().backward()
    assert reached.grad.tolist() == [1.0, 1.0]
    assert not_reached.grad is None
    assert kept.grad.tolist() == [0.0, 1.0]
    assert embedding.grad is None


def test_what_is_done_to_gradients_meanwhile_is_not_done_to_those_before() -> None:
    net, zeroed, never = nn.Linear(2, 2).double(), leaf(2), leaf(2)
    before = {p: torch.full_like(p, 7.0) for p in (*net.parameters(), zeroed)}
    for parameter, gradient in before.items():
        parameter.grad = gradient
    with added_up(net.parameters(), [zeroed, never]):
        assert [p.grad for p in net.parameters()] == [None, None]
        assert (zeroed.grad.tolist(), never.grad) == ([0.0, 0.0], None)
        (net.weight.sum() * 100).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    for parameter, gradient in before.items():
        assert parameter.grad is gradient
    assert zeroed.grad.tolist() == [7.0, 7.0]
    assert net.bias.grad.tolist() == [7.0, 7.0]
    torch.testing.assert_close(net.weight.grad, torch.full_like(net.weight, 7.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("old_sparse", [False, True])
@pytest.mark.parametrize("new_sparse", [False, True])
def test_sparse_and_dense_gradients_add_up(old_sparse: bool, new_sparse: bool) -> None:
    parameter = leaf(4, 2)
    old, new = sparse_rows([0, 2], 1.0), sparse_rows([2, 2, 3], 10.0)
    wanted = old.to_dense() + new.to_dense()
    add_gradient(parameter, old if old_sparse else old.to_dense())
    first = parameter.grad
    add_gradient(parameter, new if new_sparse else new.to_dense())
    assert parameter.grad is not None
    assert parameter.grad.is_sparse is (old_sparse and new_sparse)
    assert (parameter.grad is first) is (new_sparse or not old_sparse)
    assert torch.equal(parameter.grad.to_dense(), wanted)
