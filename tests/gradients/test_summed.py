"""The backward pass of a sum of losses, as one pass per loss: what it leaves, and its Gramians."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from libmtl_recon import ReconError
from libmtl_recon.gradients.summed import SummedLosses

TASKS = 3


class Network(nn.Module):
    """A trunk and three heads, in float64."""

    def __init__(self, *trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(trunk or (nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))))
        self.heads = nn.ModuleList(nn.Linear(5, 2) for _ in range(TASKS))
        self.double()

    def forward(self, x: Tensor) -> list[Tensor]:
        z = self.trunk(x)
        return [head(z).square().mean() for head in self.heads]


class Clamped(torch.autograd.Function):
    """Not linear in the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient.clamp(-1e-3, 1e-3)


def samples(seed: int = 0) -> Tensor:
    return torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(*trunk: nn.Module) -> tuple[Network, Network]:
    torch.manual_seed(3)
    network = Network(*trunk)
    return network, copy.deepcopy(network)


def check_gradients(
    found: nn.Module, expected: nn.Module, *, bits: Callable[[str], bool] = lambda _: False
) -> None:
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        if other.grad is None:
            assert one.grad is None, name
            continue
        assert one.grad is not None, name
        assert one.grad.layout == other.grad.layout
        mine, theirs = one.grad.to_dense(), other.grad.to_dense()
        if bits(name):
            assert torch.equal(mine, theirs), name
        else:  # sums of the same numbers in another order
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-15)


def test_gramians_are_those_of_each_tasks_gradient_and_gradients_add_up() -> None:
    network, plain = pair()
    layers = [[*network.trunk[0].parameters()], [], [*network.trunk[2].parameters()]]
    for step in range(3):
        losses = network(samples(step))
        rows = [
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(loss, layer, retain_graph=True)]
                )
                for loss in losses
            ]
            for layer in layers
            if layer
        ]
        gramians = SummedLosses(losses).backward(layers)
        assert gramians.shape == (3, TASKS, TASKS)
        assert gramians.dtype == torch.float64
        assert not gramians[1].any()
        for at, own in zip((0, 2), rows, strict=True):
            matrix = torch.stack(own).numpy()
            np.testing.assert_allclose(gramians[at], matrix @ matrix.T, rtol=1e-12, atol=1e-18)
        sum(plain(samples(step))).backward()
        # A head belongs to one task: nothing is summed before it.
        check_gradients(network, plain, bits=lambda name: name.startswith("heads"))
        if step:  # the first two add up
            network.zero_grad()
            plain.zero_grad()


@settings(max_examples=15, deadline=None)
@given(
    scale=st.sampled_from([1e-12, 1.0, 65536.0]),
    order=st.permutations(range(TASKS)),
    frozen=st.sets(st.integers(0, 9), max_size=6),
)
def test_scale_order_and_frozen_parameters(
    scale: float, order: list[int], frozen: set[int]
) -> None:
    network, plain = pair()
    for one in (network, plain):
        for place, parameter in enumerate(one.parameters()):
            parameter.requires_grad_(place not in frozen)
    layers = [[p for p in network.trunk[0].parameters() if p.requires_grad]]
    losses = [loss * scale for loss in network(samples())]
    there = [task for task in order if losses[task].requires_grad]
    if not there:
        return
    gramians = SummedLosses([losses[task] for task in there]).backward(layers)
    other = [loss * scale for loss in plain(samples())]
    rows = torch.zeros(len(there), 30, dtype=torch.float64)
    for row, task in enumerate(there):
        start = 0
        for p in plain.trunk[0].parameters():
            if p.requires_grad:
                (g,) = torch.autograd.grad(other[task], p, retain_graph=True)
                rows[row, start : start + p.numel()] = g.flatten()
                start += p.numel()
    torch.testing.assert_close(gramians[0], rows @ rows.T, rtol=1e-10, atol=0.0)
    sum(other[task] for task in there).backward()
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-15 * scale)


def test_each_loss_is_differentiated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = pair()
    passes: list[int] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: passes.append(len(a[1])) or grad(*a, **k)
    )
    calls: list[Any] = []
    handle = network.heads[0].weight.grad_fn
    assert handle is None
    losses = network(samples())
    node = losses[0].grad_fn
    assert node is not None
    node.register_hook(lambda *_: calls.append(1))
    SummedLosses(losses).backward([[*network.trunk.parameters()]], products=False)
    assert passes == [6, 6, 6]  # the trunk's parameters and one head's
    assert len(calls) == 1  # no second pass through a head


def test_hooks_of_where_gradients_arrive_see_the_sum_once() -> None:
    network, plain = pair()
    seen: dict[str, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name: seen.setdefault(name, []).append(p.grad.clone())
        )
    SummedLosses(network(samples())).backward([[*network.trunk.parameters()]])
    sum(plain(samples())).backward()
    assert seen.keys() == dict(plain.named_parameters()).keys()
    for name, parameter in plain.named_parameters():
        (found,) = seen[name]
        torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-15)


def test_an_optimizer_may_step_where_gradients_arrive() -> None:
    network, plain = pair()
    for one in (network, plain):
        for parameter in one.parameters():
            optimizer = torch.optim.SGD([parameter], 0.1)

            def step(p: Tensor, optimizer: Any = optimizer) -> None:
                optimizer.step()
                optimizer.zero_grad()

            parameter.register_post_accumulate_grad_hook(step)
    for seed in range(3):
        SummedLosses(network(samples(seed))).backward([[*network.trunk.parameters()]])
        sum(plain(samples(seed))).backward()
    for mine, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def _clip_leaves(network: Network) -> None:
    for parameter in network.trunk.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))


def _clip_module(network: Network) -> None:
    network.trunk[2].register_full_backward_pre_hook(lambda _, out: (out[0].clamp(-1e-3, 1e-3),))


class ClampedLayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Clamped.apply(x)


@pytest.mark.parametrize("way", ["leaves", "module", "function"])
def test_where_the_pass_need_not_be_linear_the_sum_itself_is_differentiated(way: str) -> None:
    trunk = [nn.Linear(4, 6), ClampedLayer(), nn.Linear(6, 5)] if way == "function" else []
    network, plain = pair(*trunk)
    for one in (network, plain):
        {"leaves": _clip_leaves, "module": _clip_module, "function": lambda _: None}[way](one)
    for seed in range(2):
        SummedLosses(network(samples(seed))).backward([[*network.trunk.parameters()]])
        sum(plain(samples(seed))).backward()
        check_gradients(network, plain, bits=lambda _: True)


def test_other_leaves_get_theirs_too() -> None:
    network, plain = pair()
    inputs = [samples().requires_grad_() for _ in range(2)]
    outside = [torch.ones((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    losses = [loss * outside[0] for loss in network(inputs[0])]
    SummedLosses([*losses, outside[0]]).backward([[*network.trunk.parameters()]])
    (sum(loss * outside[1] for loss in plain(inputs[1])) + outside[1]).backward()
    for mine, theirs in (inputs, outside):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-15)
    check_gradients(network, plain)


def test_a_tensor_that_retains_its_gradient_has_that_of_the_sum() -> None:
    network, plain = pair()
    kept = []
    for one, differentiate in (
        (
            network,
            lambda losses: SummedLosses(losses).backward(
                [[*network.trunk.parameters()]], products=False
            ),
        ),
        (plain, lambda losses: sum(losses).backward()),
    ):
        z = one.trunk(samples())
        z.retain_grad()
        differentiate([head(z).square().mean() for head in one.heads])
        kept.append(z.grad)
    torch.testing.assert_close(*kept, rtol=1e-10, atol=1e-15)


def test_the_graph_is_freed_unless_it_is_to_stay() -> None:
    network, plain = pair()
    losses = network(samples())
    layers = [[*network.trunk.parameters()]]
    first = SummedLosses(losses).backward(layers, retain_graph=True)
    second = SummedLosses(losses).backward(layers)
    assert torch.equal(first, second)
    for _ in range(2):
        sum(plain(samples())).backward()
    check_gradients(network, plain)
    for loss in losses:
        with pytest.raises(RuntimeError, match="a second time"):
            loss.backward()


def test_graphs_of_their_own_are_freed_one_by_one() -> None:
    network, _ = pair()
    losses = [network(samples(task))[task] for task in range(TASKS)]
    kept: list[bool] = []
    grad = torch.autograd.grad
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.autograd, "grad", lambda *a, **k: kept.append(k["retain_graph"]) or grad(*a, **k)
        )
        for some in (losses, network(samples())):
            SummedLosses(some).backward([[*network.trunk.parameters()]], products=False)
    assert kept == [False, False, False, True, True, False]


@pytest.mark.parametrize("tasks", [2, 3])
def test_sparse_gradients_stay_sparse_and_complex_ones_count_by_their_parts(tasks: int) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 4, sparse=True, dtype=torch.float64)
            self.turn = nn.Linear(4, 3, dtype=torch.complex128)

    torch.manual_seed(1)
    network = Mixed()
    plain = copy.deepcopy(network)
    indices = torch.tensor([[1, 2, 2], [2, 3, 8], [1, 5, 2]])[:tasks]

    def losses(one: Mixed) -> list[Tensor]:
        found = []
        for row in indices:
            out = one.turn(one.words(row).to(torch.complex128))
            found.append((out - out[0].conj()).abs().square().sum() * (1 + row[0]))
        return found

    rows: list[list[Tensor]] = [[], []]
    for loss in losses(plain):
        words, weight, bias = torch.autograd.grad(loss, list(plain.parameters()))
        rows[0].append(words.to_dense().flatten())
        rows[1].append(torch.cat([torch.view_as_real(g).flatten() for g in (weight, bias)]))
    found = SummedLosses(losses(network)).backward(
        [[network.words.weight], [*network.turn.parameters()]]
    )
    for gramian, own in zip(found, rows, strict=True):
        matrix = torch.stack(own)
        torch.testing.assert_close(gramian, matrix @ matrix.T, rtol=1e-10, atol=1e-12)
    sum(losses(plain)).backward()
    check_gradients(network, plain)
    assert network.words.weight.grad.is_sparse


def test_a_parameter_with_sparse_and_dense_gradients() -> None:
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(9, 4, dtype=torch.float64))
    grads = []
    for way in (0, 1):
        weight.grad = None
        looked = nn.functional.embedding(torch.tensor([1, 1, 4]), weight, sparse=True)
        losses = [looked.square().sum(), (weight * 2).pow(3).sum(), looked.sum()]
        if way:
            sum(losses).backward()
        else:
            SummedLosses(losses).backward([[weight]])
        grads.append(weight.grad.to_dense())
    torch.testing.assert_close(*grads)


def wide() -> list[nn.Module]:
    """A trunk of which products are cheaper than rows."""
    return [nn.Linear(4, 300), nn.BatchNorm1d(300), nn.Tanh(), nn.Linear(300, 5)]


@pytest.mark.parametrize("way", ["function", "leaves", "plain"])
def test_products_of_inputs_give_the_same_and_the_sum_is_differentiated(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [*wide(), *([ClampedLayer()] if way == "function" else [])]
    network, plain = pair(*layers)
    if way == "leaves":
        for one in (network, plain):
            one.trunk[1].weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    shared = [[*layer.parameters()] for layer in network.trunk]
    rows = SummedLosses(network(samples())).backward(shared, products=False)
    network.zero_grad()
    asked: list[list[Any]] = []
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: asked.append(list(a[1])) or grad(*a, **k)
    )
    for step in range(2):
        graph = SummedLosses(network(samples(0 if step == 0 else 1)))
        gramians = graph.backward(shared)
        assert not graph.by_rows
        if step == 0:
            torch.testing.assert_close(gramians, rows, rtol=1e-10, atol=1e-15)
    assert len(asked) == 2 * TASKS
    weight = network.trunk[3].weight
    assert not any(one is weight for inputs in asked for one in inputs)
    for seed in range(2):
        sum(plain(samples(seed))).backward()
    check_gradients(network, plain, bits=lambda _: True)
    for mine, theirs in zip(network.trunk[1].buffers(), plain.trunk[1].buffers(), strict=True):
        if mine.ndim:  # one forward pass more was made
            continue
        assert int(mine) == int(theirs) + 1


@pytest.mark.parametrize("products", [False, True])
def test_checkpoints_change_buffers_once(products: bool) -> None:
    class Checkpointed(Network):
        def forward(self, x: Tensor) -> list[Tensor]:
            z = checkpoint(self.trunk[1:3], self.trunk[0](x), use_reentrant=False)
            z = self.trunk[3](z)
            return [
                checkpoint(nn.Sequential(norm, head), z, use_reentrant=False).square().mean()
                for norm, head in zip(self.norms, self.heads, strict=True)
            ]

    trunk = (nn.Linear(4, 300), nn.BatchNorm1d(300), nn.Dropout(0.5), nn.Linear(300, 5))
    torch.manual_seed(3)
    network = Checkpointed(*trunk)
    network.norms = nn.ModuleList(nn.BatchNorm1d(5) for _ in range(TASKS)).double()
    plain = copy.deepcopy(network)
    for seed in range(2):
        torch.manual_seed(seed)
        losses = network(samples(seed))
        graph = SummedLosses(losses)
        graph.backward(
            [[*network.trunk.parameters()]], modules=network.modules(), products=products
        )
        assert graph.by_rows is not products
        torch.manual_seed(seed)
        sum(plain(samples(seed))).backward()
        check_gradients(network, plain)
        for (name, mine), theirs in zip(network.named_buffers(), plain.buffers(), strict=True):
            assert torch.equal(mine, theirs), name
    assert int(network.trunk[1].num_batches_tracked) == 4  # as ever: forward, and again


def test_a_reentrant_checkpoint_is_refused() -> None:
    network, _ = pair()
    z = checkpoint(network.trunk, samples().requires_grad_(), use_reentrant=True)
    with pytest.raises(ReconError, match="use_reentrant=False"):
        SummedLosses([head(z).sum() for head in network.heads])


def test_half_precision_parameters_and_autocast_around_the_call() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 5, dtype=torch.bfloat16)
    x = torch.randn(4, 6, dtype=torch.bfloat16)
    losses = [layer(x).float().square().mean(), layer(x).float().sin().sum()]
    rows = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(loss, [*layer.parameters()], retain_graph=True)
                ]
            )
            for loss in losses
        ]
    ).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = SummedLosses(losses).backward([[*layer.parameters()]])
    torch.testing.assert_close(found, rows @ rows.T, rtol=1e-12, atol=0.0)
    # The products of float32 gradients stay float32's, too.
    wide = nn.Linear(60, 50)
    x = torch.randn(4, 60)
    losses = [wide(x).square().mean(), wide(x).sin().sum()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        grads = [torch.autograd.grad(loss, [wide.weight], retain_graph=True)[0] for loss in losses]
        rows = torch.stack([g.flatten() for g in grads]).double()
        (found,) = SummedLosses(losses).backward([[wide.weight]])
    torch.testing.assert_close(found, rows @ rows.T, rtol=1e-5, atol=0.0)


def test_long_gradients_are_multiplied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = pair()
    layers = [[*network.trunk.parameters()]]
    whole = SummedLosses(network(samples())).backward(layers)
    monkeypatch.setattr("libmtl_recon.gradients.summed._CACHED", 21)
    parts = SummedLosses(network(samples())).backward(layers)
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=0.0)


def test_no_two_parameters_share_the_memory_of_a_gradient() -> None:
    one, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    losses = [(one + other).square().sum(), (one + other).sum()]
    SummedLosses(losses).backward([[one, other]])
    for first, second in itertools.combinations([one.grad, other.grad], 2):
        assert first.data_ptr() != second.data_ptr()
    losses = [(one + other).square().sum()]
    SummedLosses(losses).backward([[one, other]])
    with torch.no_grad():
        one.grad.zero_()
    assert torch.equal(other.grad, torch.full((3,), 9.0))
