"""Gramians without gradients, and the update after them, against the stored rows in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.gradients import Record, gramian, recording, task_gradients
from libmtl_recon.gradients.plan import WAYS
from libmtl_recon.gradients.ways import Costs

TASKS = 3


class Twice(nn.Module):
    """One layer called twice, once of what it made itself."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).sin())


class Tied(nn.Module):
    """A weight that two modules hold, and a third use of it without a module."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        self.first, self.second, self.functional = nn.Linear(5, 5), nn.Linear(5, 5), functional
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).tanh())
        return x @ self.first.weight if self.functional else x


class TiedWithBias(nn.Module):
    """A weight of two modules; the second one's bias is used by itself as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh()) * self.second.bias


class OneBias(nn.Module):
    """A bias that two layers hold."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
        self.second.bias = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


class Own(nn.Module):
    """Parameters that the network uses by itself, and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.randn(5)), nn.Linear(5, 5)
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token
        return x + self.norm(self.layer(x)).relu_()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x)[0]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layer(x)[0])


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)


class Indexed(nn.Module):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(7, 4, **kwargs), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = (x * 3).long().abs() % 7
        return self.out(self.table(places) + self.table(places.flip(-1)).sin())


def frozen() -> nn.Module:
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Linear(4, 3))
    network[0].requires_grad_(False)
    network[2].bias.requires_grad_(False)
    return network


def conv(kind: type[nn.Module], *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Identity(), kind(4, 6, *args, **kwargs), nn.ReLU(inplace=True))


FLAT, ROWS = (6, 5), (3, 4, 5)
LINE, PLANE, SPACE = (3, 4, 9), (2, 4, 7, 6), (2, 4, 4, 5, 3)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
        FLAT,
    ),
    "linear of rows": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), ROWS),
    "linear of one": (lambda: nn.Linear(5, 3), (5,)),
    "conv1d": (conv(nn.Conv1d, 3, stride=2, padding=1), LINE),
    "conv1d circular": (conv(nn.Conv1d, 3, padding=2, padding_mode="circular"), LINE),
    "conv2d": (conv(nn.Conv2d, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), PLANE),
    "conv2d dilated": (conv(nn.Conv2d, 3, padding=2, dilation=2), PLANE),
    "conv2d same": (conv(nn.Conv2d, (2, 3), padding="same"), PLANE),
    "conv2d valid": (conv(nn.Conv2d, 2, padding="valid"), PLANE),
    "conv2d reflected": (conv(nn.Conv2d, 3, padding=(1, 2), padding_mode="reflect"), PLANE),
    "conv2d in groups": (conv(nn.Conv2d, 3, groups=2), PLANE),
    "conv2d unbatched": (conv(nn.Conv2d, 3), PLANE[1:]),
    "conv3d": (conv(nn.Conv3d, 2, stride=2, padding=1, padding_mode="replicate"), SPACE),
    "transposed 1d": (conv(nn.ConvTranspose1d, 3, stride=2, output_padding=1), LINE),
    "transposed 2d": (conv(nn.ConvTranspose2d, 3, stride=2, padding=1, dilation=2), PLANE),
    "transposed in groups": (conv(nn.ConvTranspose2d, 2, groups=2, output_padding=0), PLANE),
    "transposed 3d": (conv(nn.ConvTranspose3d, 2), SPACE),
    "embedding": (Indexed, FLAT),
    "embedding with padding": (lambda: Indexed(padding_idx=2), FLAT),
    "embedding by frequency": (lambda: Indexed(scale_grad_by_freq=True), FLAT),
    "embedding sparse": (lambda: Indexed(sparse=True), FLAT),
    "twice": (lambda: Twice(nn.Linear(5, 5)), FLAT),
    "conv twice": (lambda: Twice(nn.Conv2d(4, 4, 3, padding=1)), PLANE),
    "tied": (lambda: Tied(functional=False), FLAT),
    "tied without a module": (lambda: Tied(functional=True), FLAT),
    "tied, its bias used again": (TiedWithBias, FLAT),
    "one bias": (OneBias, FLAT),
    "own parameters": (Own, FLAT),
    "attention": (Attention, (*ROWS[:1], 3, 4)),
    "lstm": (Recurrent, (3, 4, 4)),
    "layer norm": (lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)), FLAT),
    "parametrised": (lambda: nn.Sequential(weight_norm(nn.Linear(5, 4)), nn.Linear(4, 3)), FLAT),
    "checkpointed": (Checkpointed, FLAT),
    "frozen": (frozen, FLAT),
}


def loss_functions(size: int, tasks: int = TASKS) -> list[Callable[[Tensor], Tensor]]:
    """Losses of a representation, which a head of its own has for each task."""
    turned = torch.randn(tasks, size, dtype=torch.float64)
    return [lambda z, row=row: (z.flatten() @ row.to(z.dtype)).sin() for row in turned]


def computed(
    network: nn.Module,
    x: Tensor,
    losses: Sequence[Callable[[Tensor], Tensor]],
    way: str = "ghost",
    shared: list[nn.Parameter] | None = None,
) -> tuple[Record, Tensor]:
    with recording(network, way=way, shared=shared) as record:
        z = network(x)
    return record, record.gramian([loss(z) for loss in losses])


def trainable(network: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def stored(network: nn.Module, x: Tensor, losses: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    z = network(x)
    return task_gradients([loss(z) for loss in losses], trainable(network))


def assert_close(found: Tensor, wanted: Tensor, relative: float = 1e-10) -> None:
    lengths = wanted.diagonal().sqrt()
    assert bool(((found - wanted).abs() <= relative * lengths * lengths[:, None] + 1e-300).all())


def flat_gradients(network: nn.Module) -> Tensor:
    found = []
    for p in trainable(network):
        gradient = torch.zeros_like(p) if p.grad is None else p.grad
        found.append((gradient.to_dense() if gradient.is_sparse else gradient).flatten())
    return torch.cat(found)


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are taken wherever they are known, however small a layer is."""
    monkeypatch.setattr("libmtl_recon.gradients.left_out.costs", lambda *_: Costs(2.0, 1.0))
    monkeypatch.setattr("libmtl_recon.gradients.plan.whole_pass", lambda *_: 0.0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.usefixtures("by_products")
def test_equals_the_stored_rows(name: str, way: str) -> None:
    torch.manual_seed(1)
    make, shape = NETWORKS[name]
    network = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    losses = loss_functions(network(x).numel())
    rows = stored(network, x, losses)
    record, found = computed(network, x, losses, way)
    assert_close(found, gramian(rows))
    assert_close(record.layer_gramians.sum(dim=0), gramian(rows))
    assert all(parameter.grad is None for parameter in network.parameters())
    weights = torch.tensor([0.5, -1.0, 2.0])
    record.backward(weights)
    wanted = weights.double() @ rows
    assert float((flat_gradients(network) - wanted).norm()) <= 1e-10 * float(wanted.norm())


WITHOUT = {
    "tied, its bias used again",
    "tied without a module",
    "one bias",
}


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - WITHOUT))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.usefixtures("by_products")
def test_products_are_taken(name: str) -> None:
    make, shape = NETWORKS[name]
    network = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    record, _ = computed(network, x, loss_functions(network(x).numel()))
    ways = {way.layer: way.way for way in record.ways}
    assert "products" in ways.values()
    assert record.layers == tuple(ways)


@pytest.mark.parametrize("name", sorted(WITHOUT))
@pytest.mark.usefixtures("by_products")
def test_what_is_not_known_goes_by_rows(name: str) -> None:
    make, shape = NETWORKS[name]
    network = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    record, _ = computed(network, x, loss_functions(network(x).numel()))
    assert {way.way for way in record.ways if way.layer != "second"} == {"rows"}


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_any_small_network(data: st.DataObject) -> None:
    """Stacks of layers, some of them shared between places, with residual connections."""
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    width, depth = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 5))
    network = Stack(width, [data.draw(st.sampled_from(sorted(KINDS))) for _ in range(depth)])
    network = network.double()
    reused = data.draw(st.lists(st.integers(0, depth - 1), max_size=2))
    network.order += reused
    x = torch.randn(data.draw(st.integers(1, 4)), width, 3, 3, dtype=torch.float64)
    losses = loss_functions(network(x).numel(), data.draw(st.integers(1, 4)))
    way = data.draw(st.sampled_from(WAYS))
    rows = stored(network, x, losses)
    with pytest.MonkeyPatch.context() as patched:
        if data.draw(st.booleans()):
            patched.setattr("libmtl_recon.gradients.left_out.costs", lambda *_: Costs(2.0, 1.0))
        patched.setattr("libmtl_recon.gradients.plan.whole_pass", lambda *_: 0.0)
        record, found = computed(network, x, losses, way)
    assert_close(found, gramian(rows))
    weights = torch.randn(len(losses), dtype=torch.float64)
    record.backward(weights)
    wanted = weights @ rows
    lengths = rows.norm(dim=1) @ weights.abs()
    assert float((flat_gradients(network) - wanted).norm()) <= 1e-10 * float(lengths)


KINDS: dict[str, Callable[[int], nn.Module]] = {
    "conv": lambda width: nn.Conv2d(width, width, 3, padding=1),
    "strided": lambda width: nn.Conv2d(width, width, 1, bias=False),
    "transposed": lambda width: nn.ConvTranspose2d(width, width, 3, padding=1),
    "norm": lambda width: nn.GroupNorm(1, width),
    "depthwise": lambda width: nn.Conv2d(width, width, 3, padding=1, groups=width),
    "linear": lambda width: nn.Sequential(nn.Flatten(2), nn.Linear(9, 9), nn.Unflatten(2, (3, 3))),
}


class Stack(nn.Module):
    def __init__(self, width: int, kinds: Sequence[str]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(KINDS[kind](width) for kind in kinds)
        self.order = list(range(len(kinds)))

    def forward(self, x: Tensor) -> Tensor:
        for place in self.order:
            x = x + self.layers[place](x).sin()
        return x


def chain(depth: int, width: int = 16) -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(depth)))


@pytest.mark.parametrize("products", [False, True])
def test_no_more_than_a_part_of_the_rows_is_held(
    products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight blocks of equal size: rows, or output gradients, of one or two of them at a time."""
    costs = Costs(2.0, 1.0) if products else Costs(1.0, 2.0)
    monkeypatch.setattr("libmtl_recon.gradients.left_out.costs", lambda *_: costs)
    made: list[int] = []

    def zeros(parameters: Sequence[Tensor], tasks: int) -> Tensor:
        rows = torch.zeros(tasks, sum(p.numel() for p in parameters), dtype=torch.float64)
        made.append(rows.numel())
        return rows

    monkeypatch.setattr("libmtl_recon.gradients.sweep._zeros", zeros)
    network = chain(8).double()
    x = torch.randn(2, 16, dtype=torch.float64)
    losses = loss_functions(32)
    rows = stored(network, x, losses)
    _, found = computed(network, x, losses)
    assert_close(found, gramian(rows))
    assert max(made) <= (0 if products else rows.numel() / 4)


def test_heads_inside_the_network_are_not_shared() -> None:
    network = nn.ModuleDict(
        {"encoder": nn.Linear(5, 4), **{f"{t}": nn.Linear(4, 2) for t in "abc"}}
    )
    network = network.double()
    x = torch.randn(6, 5, dtype=torch.float64)

    def losses() -> list[Tensor]:
        z = network["encoder"](x).tanh()
        return [network[task](z).square().mean() for task in "abc"]

    encoder = list(network["encoder"].parameters())
    rows = task_gradients(losses(), encoder)
    for way in WAYS:
        network.zero_grad()
        with recording(network, way=way) as record:
            found = losses()
        assert_close(record.gramian(found), gramian(rows))
        assert record.layers == ("encoder",)
        record.backward(torch.tensor([1.0, 2.0, 3.0]))
        gradients = {task: network[task].weight.grad for task in "abc"}
        for task, loss in zip("abc", losses(), strict=True):
            wanted = torch.autograd.grad(loss, network[task].weight)[0]
            torch.testing.assert_close(gradients[task], wanted)


def test_what_is_not_shared_may_be_weighed_as_well() -> None:
    encoder, head = nn.Linear(5, 4).double(), nn.Linear(4, 2).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    with recording(encoder) as record:
        z = head(encoder(x))
    losses = [z.square().mean(), z.sin().mean()]
    expected = [torch.autograd.grad(loss, head.weight, retain_graph=True)[0] for loss in losses]
    record.gramian(losses)
    weights = torch.tensor([0.5, 3.0], dtype=torch.float64)
    record.backward(weights, specific=weights)
    assert head.weight.grad is not None
    torch.testing.assert_close(head.weight.grad, 0.5 * expected[0] + 3 * expected[1])


@pytest.mark.usefixtures("by_products")
def test_tasks_with_inputs_of_their_own() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs = [torch.randn(n, 5, dtype=torch.float64) for n in (2, 4, 3)]

    def losses() -> list[Tensor]:
        return [network(x).sin().sum() for x in inputs]

    rows = task_gradients(losses(), trainable(network))
    with recording(network, way="ghost") as record:
        found = losses()
    assert_close(record.gramian(found), gramian(rows))
    assert {way.way for way in record.ways} == {"products"}


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("way", WAYS)
def test_losses_without_a_graph_have_no_gradient(way: str) -> None:
    network = nn.Linear(5, 4).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    with recording(network, way=way) as record:
        z = network(x)
    losses = [z.square().mean(), None, torch.tensor(1.0), z.sin().mean()]
    rows = task_gradients([losses[0], losses[3]], trainable(network), retain_graph=True)
    found = record.gramian(losses)
    assert_close(found[[0, 3]][:, [0, 3]], gramian(rows))
    assert not found[[1, 2]].any()
    record.backward(torch.ones(4))
    torch.testing.assert_close(flat_gradients(network), rows.sum(dim=0))


def test_no_loss_reaches_a_shared_parameter() -> None:
    network = nn.Linear(5, 4)
    with recording(network) as record:
        network(torch.randn(2, 5))
    assert torch.equal(record.gramian([torch.tensor(1.0)] * 2), torch.zeros(2, 2).double())
    assert record.layer_gramians.shape == (0, 2, 2)
    record.backward(torch.ones(2))
    assert network.weight.grad is None


@pytest.mark.usefixtures("by_products")
def test_gradients_add_to_what_there_is() -> None:
    network = nn.Linear(5, 4).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(24)
    rows = stored(network, x, losses)
    for way in WAYS:
        network.weight.grad = torch.ones_like(network.weight)
        network.bias.grad = torch.ones_like(network.bias)
        record, _ = computed(network, x, losses, way)
        record.backward(torch.ones(TASKS))
        torch.testing.assert_close(flat_gradients(network), rows.sum(dim=0) + 1)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("hook", ["tensor", "accumulated"])
def test_hooks_of_parameters_go_by_rows(hook: str) -> None:
    network = nn.Linear(5, 4).double()
    if hook == "tensor":
        network.weight.register_hook(lambda gradient: 2 * gradient)
    else:
        network.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(24)
    rows = stored(network, x, losses)
    record, found = computed(network, x, losses)
    assert_close(found, gramian(rows))
    assert [way.reason for way in record.ways] == ["its parameters have hooks"]


@pytest.mark.usefixtures("by_products")
def test_hooks_of_modules_and_outputs_hold() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    network[0].register_forward_hook(lambda module, args, output: output * 3)
    network[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    network[1].register_full_backward_hook(lambda module, below, above: (below[0] * 2,))
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(18)
    record, found = computed(network, x, losses)
    assert_close(found, gramian(stored(network, x, losses)))
    assert {way.way for way in record.ways} == {"products"}


def test_float32_is_within_1e_5_of_float64() -> None:
    torch.manual_seed(0)
    network, x = chain(4, 32), torch.randn(4, 32)
    losses = loss_functions(128)
    wide = copy.deepcopy(network).double()
    exact = gramian(stored(wide, x.double(), losses))
    for way in WAYS:
        assert_close(computed(network, x, losses, way)[1], exact, 1e-5)


@pytest.mark.usefixtures("by_products")
def test_compiled_parts_go_by_rows() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(18)
    rows = stored(network, x, losses)
    record, found = computed(torch.compile(network, backend="aot_eager"), x, losses)
    assert_close(found, gramian(rows))
    assert record.layers == ("0", "2")
    assert {way.way for way in record.ways} == {"rows"}


class Clipping(nn.Module):
    """A hook clips the gradients of a tensor that a module is given, or that one has returned."""

    def __init__(self, given: bool) -> None:
        super().__init__()
        self.first, self.second, self.given = nn.Linear(5, 5), nn.Linear(5, 5), given

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x.sin() if self.given else x
        x.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
        x = x if self.given else x.sin()
        return self.second(x)


@pytest.mark.usefixtures("by_products")
@pytest.mark.parametrize("given", [True, False])
def test_hooks_of_tensors_may_clip_the_gradient_of_each_task(given: bool) -> None:
    network = Clipping(given).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(30)
    rows = stored(network, x, losses)
    record, found = computed(network, x, losses, "auto")
    assert_close(found, gramian(rows))
    layer = "second" if given else "first"
    assert f"a hook of an input or an output of {layer}" in record.ways[0].reason
    record.backward(torch.ones(TASKS))
    torch.testing.assert_close(flat_gradients(network), rows.sum(dim=0))


@pytest.mark.usefixtures("by_products")
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_parts_have_no_hooks_and_are_right() -> None:
    network = nn.Sequential(nn.Linear(5, 4), torch.jit.script(nn.Linear(4, 3)), nn.Linear(3, 2))
    network = network.double()
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(12)
    rows = stored(network, x, losses)
    record, found = computed(network, x, losses)
    assert_close(found, gramian(rows))
    assert record.layers == ("0", "1", "2")


class OfComplexNumbers(nn.Module):
    """A real weight that complex numbers meet."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found = torch.complex(x, x.cos()) @ self.layer.weight.to(torch.complex128)
        return torch.view_as_real(found)


@pytest.mark.usefixtures("by_products")
def test_a_real_weight_of_complex_numbers_goes_by_rows() -> None:
    network = OfComplexNumbers().double()
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(60)
    rows = stored(network, x, losses)
    record, found = computed(network, x, losses)
    assert_close(found, gramian(rows))
    assert {way.way for way in record.ways} == {"rows"}


@pytest.mark.usefixtures("by_products")
def test_a_hook_of_all_modules_may_change_outputs() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(6, 5, dtype=torch.float64)
    losses = loss_functions(18)
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, output: 2 * output)
    try:
        rows = stored(network, x, losses)
        _, found = computed(network, x, losses)
    finally:
        hook.remove()
    assert_close(found, gramian(rows))


class Timed(nn.Module):
    """A module that is given a number without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.randn(4, 5))

    def forward(self, time: Tensor) -> Tensor:
        return (time * self.rates).sin()


@pytest.mark.parametrize("way", WAYS)
def test_a_module_that_is_given_a_number(way: str) -> None:
    network, time = Timed().double(), torch.tensor(2.0, dtype=torch.float64)
    losses = loss_functions(20)
    rows = stored(network, time, losses)
    _, found = computed(network, time, losses, way)
    assert_close(found, gramian(rows))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(5, 4), torch.zeros(0, 5)),
        (nn.Conv2d(4, 4, 3), torch.zeros(0, 4, 5, 5)),
        (nn.Embedding(7, 4), torch.zeros(0, 3, dtype=torch.long)),
    ],
)
def test_layers_that_are_given_nothing(layer: nn.Module, x: Tensor, way: str) -> None:
    record, found = computed(layer, x, [torch.sum, lambda z: 2 * z.sum()], way)
    assert not found.any()
    assert {way.way for way in record.ways} == {"rows"}
    record.backward(torch.ones(2))
    assert not flat_gradients(layer).any()


@pytest.mark.usefixtures("by_products")
def test_inputs_changed_in_place_are_refused_by_name() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    x = torch.randn(6, 5)
    with recording(network, way="ghost") as record:
        z = network(x)
    x += 1
    with pytest.raises(ReconError, match="input of the layer 0 was changed in place after"):
        record.gramian([z.sum(), z.sin().sum()])


@pytest.mark.usefixtures("by_products")
def test_inputs_that_were_freed_are_refused_by_name() -> None:
    network = nn.Linear(5, 4)
    x = torch.randn(6, 5)
    with recording(network, way="ghost") as record:
        z = network(x)
    x.untyped_storage().resize_(0)
    with pytest.raises(ReconError, match=r"input of the layer .* was freed after"):
        record.gramian([z.sum(), z.sin().sum()])


@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_that_is_not_finite_is_named(way: str) -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    with recording(network, way=way) as record:
        z = network(torch.ones(2, 5))
    with pytest.raises(ReconError, match=r"gradient of loss 1 is not finite in the layer [01]\b"):
        record.gramian([z.sum(), z.sum() * float("inf")])


def test_what_is_no_parameter_is_refused() -> None:
    for no_parameters in ("abc", [3]):
        with (
            pytest.raises(UsageError, match="shared must be parameters"),
            recording(
                nn.Linear(2, 2),
                shared=no_parameters,  # type: ignore[arg-type]
            ),
        ):
            pass


def test_wrong_arguments_are_named() -> None:
    network = nn.Linear(5, 4)
    with pytest.raises(UsageError, match=r"way must be one of auto, stored, ghost"):
        recording(network, way="fast").__enter__()
    with pytest.raises(UsageError, match=r"network must be a torch\.nn\.Module"):
        recording(network.parameters()).__enter__()  # type: ignore[arg-type]
    with recording(network) as record:
        z = network(torch.ones(2, 5))
    with pytest.raises(ReconError, match=r"Call record\.gramian"):
        record.backward(torch.ones(2))
    with pytest.raises(UsageError, match="losses must be scalars"):
        record.gramian([z.sum(), z])
    with pytest.raises(UsageError, match="losses must have at least one entry"):
        record.gramian([])
    record.gramian([z.sum(), z.sin().sum()])
    with pytest.raises(UsageError, match=r"weights must have the shape \[2\]"):
        record.backward(torch.ones(3))
    with pytest.raises(UsageError, match=r"weights must be a tensor \(got \[1\.0, 2\.0\]\)"):
        record.backward([1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="shared must be the parameters that the tasks share"):
        recording(network, shared=iter([])).__enter__()
    record.backward(torch.ones(2))
    assert network.weight.grad is not None


def test_hooks_are_gone_afterwards() -> None:
    network = chain(2)
    with recording(network):
        assert all(module._forward_hooks for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
