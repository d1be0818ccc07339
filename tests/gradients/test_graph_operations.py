"""Operations that no module calls, against the stored rows in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv3d, conv_transpose2d, embedding, linear, pad
from torch.utils.checkpoint import checkpoint

from libmtl_recon import split_layers
from libmtl_recon.errors import ReconError
from libmtl_recon.gradients import (
    Record,
    cosines,
    gramian,
    graph_operations,
    products,
    recording,
    task_gradients,
)
from libmtl_recon.gradients.calls import noted
from libmtl_recon.gradients.ways import Costs
from libmtl_recon.splitting import shared_parameters

TASKS = 3


class Functional(nn.Module):
    """Parameters of given shapes, and any function of them."""

    def __init__(self, function: Callable[..., Tensor], *shapes: Sequence[int]) -> None:
        super().__init__()
        self.function = function
        self.own = nn.ParameterList(nn.Parameter(torch.randn(*shape)) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.own)


class Attention(nn.Module):
    """Attention of what a layer makes, to itself or to something else."""

    def __init__(self, cross: bool = False, masked: bool = False, **kwargs: Any) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layer = nn.MultiheadAttention(4, 2, **kwargs)
        self.cross, self.masked = cross, masked

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        memory = pad(x.sin(), (0, self.layer.kdim - 4)) if self.cross else x
        length, batch = (x.shape[1::-1]) if self.layer.batch_first else x.shape[:2]
        mask = torch.zeros(batch, length, dtype=torch.bool)
        mask[0, -1] = True
        return self.layer(x, memory, memory, mask if self.masked else None)[0]


class Both(nn.Module):
    """A module's weight that is used by it and by a function."""

    def __init__(self, layer: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer, x)


class Subclass(nn.Linear):
    """Not known as a module."""


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return 2 * x @ weight.T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return 2 * gradients[0] @ weight, 2 * gradients[0].T @ x


def doubled(layer: nn.Linear) -> nn.Linear:
    layer.forward = lambda x: linear(x, 2 * layer.weight, layer.bias)  # type: ignore[method-assign]
    return layer


def frozen(layer: nn.Linear) -> nn.Linear:
    layer.weight.requires_grad_(False)
    return layer


def per_step(layer: nn.Module, x: Tensor) -> Tensor:
    state = None
    for part in x.unbind(1):
        state = layer(part, state)
    assert state is not None
    return state[0]


FLAT, ROWS, SEQUENCE = (6, 5), (3, 4, 5), (3, 2, 4)
LINE, PLANE, SPACE = (3, 4, 9), (2, 4, 7, 6), (2, 4, 4, 5, 3)
Case = tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, str]]


def function(
    way: str, shape: tuple[int, ...], called: Callable[..., Tensor], *shapes: Sequence[int]
) -> Case:
    return lambda: Functional(called, *shapes), shape, {"own": way}


def of_words(way: str, *, tied: bool = False, **kwargs: Any) -> Case:
    """A table that is looked up by a function, and is a matrix as well if it is tied."""

    def called(x: Tensor, table: Tensor) -> Tensor:
        found = embedding((3 * x).long().abs() % 7, table, **kwargs).sin()
        return linear(found, table) if tied else found

    return function(way, FLAT, called, (7, 4))


def both(
    way: str, shape: tuple[int, ...], make: Callable[[], nn.Module], called: Callable[..., Tensor]
) -> Case:
    return lambda: Both(make(), called), shape, {"layer": way}


def attention(way: str = "products", **kwargs: Any) -> Case:
    ways = {"first": "products", "layer": way, "layer.out_proj": "products"}
    return lambda: Attention(**kwargs), SEQUENCE, ways


CASES: dict[str, Case] = {
    "attention": attention(),
    "attention, batch first": attention(batch_first=True),
    "attention without bias": attention(bias=False),
    "attention with dropout": attention(dropout=0.5),
    "attention with a mask": attention(masked=True),
    "attention with biases of keys": attention(add_bias_kv=True),
    "cross attention": attention("rows", cross=True),
    "cross attention of other widths": attention(cross=True, kdim=5, vdim=5),
    "attention in itself": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
        SEQUENCE,
        {
            **dict.fromkeys(["self_attn", "self_attn.out_proj", "linear1", "linear2"], "products"),
            **dict.fromkeys(["norm1", "norm2"], "rows"),
        },
    ),
    "linear": function("products", FLAT, linear, (4, 5), (4,)),
    "linear without bias": function("products", FLAT, linear, (4, 5)),
    "linear of rows": function("products", ROWS, linear, (4, 5), (4,)),
    "linear of rows without bias": function("products", ROWS, linear, (4, 5)),
    "linear of one": function("products", (5,), linear, (4, 5), (4,)),
    "linear of what is turned": function(
        "products", ROWS, lambda x, w, b: linear(x.sin().transpose(0, 1), w, b), (4, 5), (4,)
    ),
    "linear twice": function("products", FLAT, lambda x, w: linear(linear(x, w), w), (5, 5)),
    "product": function("products", FLAT, lambda x, w: x @ w, (5, 4)),
    "product twice": function("products", FLAT, lambda x, w: (x @ w).sin() @ w, (5, 5)),
    "product of rows, turned": function("products", ROWS, lambda x, w: x @ w.T, (4, 5)),
    "product, its axes swapped": function(
        "products", FLAT, lambda x, w: linear(x, w).sin() @ w.transpose(-1, -2), (5, 5)
    ),
    "product, its axes permuted": function(
        "products", FLAT, lambda x, w: linear(x, w).sin() @ w.permute(-1, 0), (5, 5)
    ),
    "product, its axes not swapped": function(
        "products",
        FLAT,
        lambda x, w: ((x @ w).sin() @ w.transpose(1, 1)).sin() @ w.permute(0, 1),
        (5, 5),
    ),
    "product and its turn": function("rows", FLAT, lambda x, w: (x @ w).sin() @ w.T, (5, 5)),
    "product with a bias": function("products", FLAT, lambda x, w, b: x @ w + b, (5, 4), (4,)),
    "addmm": function("products", FLAT, lambda x, w, b: torch.addmm(b, x, w), (5, 4), (4,)),
    "addmm, scaled": function(
        "rows", FLAT, lambda x, w, b: torch.addmm(b, x, w, alpha=2), (5, 4), (4,)
    ),
    "addmm, its bias scaled": function(
        "rows", FLAT, lambda x, w, b: torch.addmm(b, x, w, beta=2), (5, 4), (4,)
    ),
    "addmm, one bias for all": function(
        "products", FLAT, lambda x, w, b: torch.addmm(b, x, w), (5, 4), (1,)
    ),
    "addmm, a bias for each sample": function(
        "products", FLAT, lambda x, w, b: torch.addmm(b, x, w), (5, 4), (6, 4)
    ),
    "a computed bias": function(
        "products", FLAT, lambda x, w, b: linear(x, w, 2 * b), (4, 5), (4,)
    ),
    "a part of a bias": function(
        "products", FLAT, lambda x, w, b: linear(x, w, b.chunk(2)[1]), (4, 5), (8,)
    ),
    "a bias that is used again": function(
        "rows", FLAT, lambda x, w, b: linear(x, w, b) * b, (4, 5), (4,)
    ),
    "a bias of two weights": function(
        "rows", FLAT, lambda x, w, v, b: linear(x, w, b) * linear(x, v, b), (4, 5), (4, 5), (4,)
    ),
    "a weight that is used again": function(
        "rows", FLAT, lambda x, w: linear(x, w) + w.sum(), (4, 5)
    ),
    "a computed weight": function("rows", FLAT, lambda x, w: linear(x, 2 * w), (4, 5)),
    "a function of a script's": function("rows", FLAT, lambda x, w: Scaled.apply(x, w), (4, 5)),
    "a sparse input": function("rows", FLAT, lambda x, w: x.relu().to_sparse() @ w, (5, 4)),
    "conv1d": function(
        "products", LINE, lambda x, w, b: conv1d(x, w, b, 2, 1), (6, 4, 3), (6,)
    ),
    "conv2d": function(
        "products", PLANE, lambda x, w, b: conv2d(x, w, b, (2, 1), (1, 0)), (6, 4, 3, 2), (6,)
    ),
    "conv2d dilated": function(
        "products", PLANE, lambda x, w: conv2d(x, w, None, 1, (2, 1), (2, 1)), (6, 4, 3, 2)
    ),
    "conv2d in groups": function(
        "products", PLANE, lambda x, w: conv2d(x, w, groups=2), (6, 2, 3, 3)
    ),
    "conv2d same": function(
        "products", PLANE, lambda x, w: conv2d(x, w, padding="same"), (6, 4, 3, 3)
    ),
    "conv2d, one number for all axes": function(
        "products",
        PLANE,
        lambda x, w: torch.convolution(x, w, None, [2], [1], [1], False, [0], 1),
        (6, 4, 3, 2),
    ),
    "conv2d unbatched": function(
        "products", PLANE[1:], lambda x, w, b: conv2d(x, w, b), (6, 4, 3, 3), (6,)
    ),
    "conv2d, a computed bias": function(
        "products", PLANE, lambda x, w, b: conv2d(x, w, b.sin()), (6, 4, 3, 3), (6,)
    ),
    "conv2d, turned": function(
        "rows", PLANE, lambda x, w: conv2d(x, w.transpose(0, 1)), (4, 6, 3, 3)
    ),
    "conv2d, turned twice": function(
        "rows", PLANE, lambda x, w: conv2d(x, w.mT.transpose(0, 1)), (4, 4, 3, 3)
    ),
    "conv2d and turned twice": function(
        "rows",
        PLANE,
        lambda x, w: conv2d(conv2d(x, w).sin(), w.mT.transpose(0, 1)),
        (4, 4, 3, 3),
    ),
    "conv2d twice": function(
        "products",
        PLANE,
        lambda x, w: conv2d(conv2d(x, w, padding=1).sin(), w, stride=2),
        (4, 4, 3, 3),
    ),
    "conv2d in two kinds of groups": function(
        "rows",
        PLANE,
        lambda x, w: conv2d(conv2d(x, w, groups=2, padding=1)[:, :2].sin(), w),
        (4, 2, 3, 3),
    ),
    "conv3d": function(
        "products", SPACE, lambda x, w, b: conv3d(x, w, b, 2, 1), (6, 4, 2, 2, 2), (6,)
    ),
    "transposed": function(
        "products",
        PLANE,
        lambda x, w, b: conv_transpose2d(x, w, b, 2, (1, 0), 1, 1, (2, 1)),
        (4, 6, 3, 2),
        (6,),
    ),
    "transposed in groups": function(
        "products", PLANE, lambda x, w: conv_transpose2d(x, w, groups=2), (4, 3, 2, 2)
    ),
    "conv2d and transposed": function(
        "rows", PLANE, lambda x, w: conv_transpose2d(conv2d(x, w).sin(), w), (4, 4, 3, 3)
    ),
    "a module and a function": both(
        "products",
        FLAT,
        lambda: nn.Linear(5, 5),
        lambda layer, x: linear(layer(x).sin(), layer.weight, layer.bias),
    ),
    "a module and a function without its bias": both(
        "products",
        ROWS,
        lambda: nn.Linear(5, 5),
        lambda layer, x: linear(layer(x).sin(), layer.weight),
    ),
    "a module and a product": both(
        "rows", FLAT, lambda: nn.Linear(5, 5), lambda layer, x: layer(x).sin() @ layer.weight
    ),
    "a table and a function": both(
        "rows",
        FLAT,
        lambda: nn.Embedding(7, 4),
        lambda layer, x: linear(layer((3 * x).long().abs() % 7), layer.weight),
    ),
    "a table": of_words("products"),
    "a table with padding": of_words("products", padding_idx=2),
    "a table by frequency": of_words("products", scale_grad_by_freq=True),
    "a tied table": of_words("rows", tied=True),
    "a subclass": both("products", ROWS, lambda: Subclass(5, 4), lambda layer, x: layer(x)),
    "a recurrent cell": both("products", ROWS, lambda: nn.GRUCell(5, 4), lambda layer, x: (
        layer(x[:, 1], layer(x[:, 0]))
    )),
    "a convolution of one sample": both(
        "products", PLANE[1:], lambda: nn.Conv2d(4, 6, 3), lambda layer, x: layer(x)
    ),
    "a module with a forward of its own": both(
        "rows", ROWS, lambda: doubled(nn.Linear(5, 4)), lambda layer, x: layer(x)
    ),
    "a module whose weight is frozen": both(
        "rows", ROWS, lambda: frozen(nn.Linear(5, 4)), lambda layer, x: layer(x)
    ),
    "a module of stand-ins": both(
        "rows",
        ROWS,
        lambda: nn.Linear(5, 4),
        lambda layer, x: torch.func.functional_call(
            layer, {name: p.sin() for name, p in layer.named_parameters()}, x
        ),
    ),
}  # fmt: skip


def loss_functions(size: int) -> list[Callable[[Tensor], Tensor]]:
    turned = torch.randn(TASKS, size, dtype=torch.float64)
    return [lambda z, row=row: (z.flatten() @ row.to(z.dtype)).sin() for row in turned]


def assert_close(found: Tensor, wanted: Tensor, relative: float = 1e-10) -> None:
    lengths = wanted.diagonal().sqrt()
    assert bool(((found - wanted).abs() <= relative * lengths * lengths[:, None]).all())


def ways(record: Record) -> dict[str, str]:
    return {way.layer: way.way for way in record.ways}


def trainable(network: nn.Module) -> list[nn.Parameter]:
    return [p for p in network.parameters() if p.requires_grad]


def check(
    network: nn.Module,
    run: Callable[[], Sequence[Tensor]],
    shared: Sequence[Tensor],
    wanted: dict[str, str],
) -> Record:
    """The Gramian and the update are those of the rows, and the ways those that are wanted."""
    torch.manual_seed(2)
    rows = task_gradients(list(run()), list(shared))
    torch.manual_seed(2)
    with recording(network, way="ghost") as record:
        losses = run()
    assert_close(record.gramian(losses), gramian(rows))
    assert_close(record.layer_gramians.sum(dim=0), gramian(rows))
    assert ways(record) == wanted
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    record.backward(weights)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
    found = torch.cat([gradient.flatten() for gradient in gradients])
    total = weights @ rows
    assert float((found - total).norm()) <= 1e-10 * float(total.norm())
    return record


@pytest.fixture(autouse=True)
def _by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are taken wherever they are known, however small a layer is."""
    monkeypatch.setattr("libmtl_recon.gradients.left_out.costs", lambda *_: Costs(2.0, 1.0))


@pytest.mark.parametrize("name", CASES)
def test_equals_the_stored_rows(name: str) -> None:
    torch.manual_seed(1)
    make, shape, wanted = CASES[name]
    network = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    losses = loss_functions(network(x).numel())
    check(network, lambda: [loss(network(x)) for loss in losses], trainable(network), wanted)
    network.zero_grad()
    check(
        network,
        lambda: [loss(z) for z in [network(x)] for loss in losses],
        trainable(network),
        wanted,
    )


@pytest.mark.parametrize("name", ["linear", "attention", "conv2d"])
def test_only_what_is_asked_for_is_multiplied(name: str) -> None:
    """A parameter that is not shared, of a pair that is called together, leaves both to rows."""
    make, shape, _ = CASES[name]
    network = make().double()
    x = torch.randn(shape, dtype=torch.float64)
    losses = loss_functions(network(x).numel())
    weights = [p for p in network.parameters() if p.ndim > 1]
    rows = task_gradients([loss(z) for z in [network(x)] for loss in losses], weights)
    with recording(network, shared=weights, way="ghost") as record:
        z = network(x)
    assert_close(record.gramian([loss(z) for loss in losses]), gramian(rows))


def test_a_bias_of_somewhere_else_gets_its_gradient() -> None:
    outside = nn.Parameter(torch.randn(4, dtype=torch.float64))
    network = Functional(lambda x, w: linear(x, w, outside), (4, 5)).double()
    x = torch.randn(FLAT, dtype=torch.float64)

    def run() -> list[Tensor]:
        return [loss(network(x)) for loss in (torch.sum, torch.std, torch.mean)]

    check(network, run, trainable(network), {"own": "products"})
    assert outside.grad is not None
    torch.testing.assert_close(outside.grad, torch.autograd.grad(sum(run()), outside)[0])


def test_biases_of_single_tasks_are_not_shared() -> None:
    """One weight with a bias of its own for each task."""
    network = Functional(lambda x, w, *_: x, (4, 5), (4,), (4,), (4,)).double()
    weight, *biases = network.own
    x = torch.randn(FLAT, dtype=torch.float64)

    def run() -> list[Tensor]:
        return [linear(network(x), weight, bias).sin().sum() for bias in biases]

    record = check(network, run, [weight], {"own": "rows"})
    assert record.ways[0].reason == "not all of its parameters are shared"
    for bias in biases:
        assert bias.grad is not None
    assert biases[0].grad is not None
    wanted = torch.autograd.grad(run()[0], biases[0])[0]
    torch.testing.assert_close(biases[0].grad, wanted)


def test_one_weight_by_tasks_with_inputs_of_their_own() -> None:
    network = Functional(linear, (4, 5), (4,)).double()
    inputs = [torch.randn(n, 5, dtype=torch.float64) for n in (2, 4, 3)]
    check(
        network,
        lambda: [network(x).sin().sum() for x in inputs],
        trainable(network),
        {"own": "products"},
    )


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_recurrent_layers_of_steps_that_autograd_knows(layer: type[nn.Module]) -> None:
    network = Both(layer(5, 4, batch_first=True), lambda own, x: own(x)[0]).double()
    x = torch.randn(ROWS, dtype=torch.float64)
    losses = loss_functions(48)
    check(
        network,
        lambda: [loss(z) for z in [network(x)] for loss in losses],
        trainable(network),
        {"layer": "products"},
    )


@pytest.mark.parametrize(
    ("behind", "shape"),
    [
        (nn.Linear(5, 4), ROWS),
        (nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)), FLAT),
        (nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 3, padding=1)), FLAT),
    ],
)
def test_shared_layers_behind_a_split(behind: nn.Module, shape: tuple[int, ...]) -> None:
    network = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Tanh(), behind).double()
    split_layers(network, ["1"], ["a", "b", "c"])
    x = torch.randn(shape, dtype=torch.float64)
    shared = list(shared_parameters(network))
    layers = [name.rpartition(".")[0] for name, p in network.named_parameters()]
    wanted = {name: "products" for name in layers if not name.startswith("1")}
    check(network, lambda: [z.sin().sum() for z in network(x).parts], shared, wanted)


def test_hooks_of_parameters_go_by_rows() -> None:
    network = Functional(linear, (4, 5), (4,)).double()
    network.own[0].register_hook(lambda gradient: 2 * gradient)
    x = torch.randn(FLAT, dtype=torch.float64)
    losses = loss_functions(24)
    rows = task_gradients([loss(z) for z in [network(x)] for loss in losses], trainable(network))
    with recording(network, way="ghost") as record:
        z = network(x)
    assert_close(record.gramian([loss(z) for loss in losses]), gramian(rows))
    assert [way.reason for way in record.ways] == ["its parameters have hooks"]


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.block = nn.Linear(5, 5), Functional(self.count, (5, 5), (5,))
        self.calls, self.reentrant = 0, reentrant

    def count(self, x: Tensor, *own: Tensor) -> Tensor:
        self.calls += 1
        return linear(x, *own).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, self.first(x), use_reentrant=self.reentrant)


def test_checkpoints_are_computed_again_by_the_passes_alone() -> None:
    network = Checkpointed(reentrant=False).double()
    x = torch.randn(FLAT, dtype=torch.float64)
    losses = loss_functions(30)
    rows = task_gradients([loss(z) for z in [network(x)] for loss in losses], trainable(network))
    network.calls = 0
    with recording(network, way="ghost") as record:
        z = network(x)
    assert_close(record.gramian([loss(z) for loss in losses]), gramian(rows))
    assert ways(record) == {"first": "products", "block.own": "rows"}
    assert network.calls == 1 + TASKS


def test_reentrant_checkpoints_are_refused() -> None:
    network = Checkpointed(reentrant=True)
    with recording(network, way="ghost") as record:
        z = network(torch.randn(FLAT))
    with pytest.raises(ReconError, match=r"hides the parameters .* use_reentrant=False\."):
        record.gramian([z.sum(), z.sin().sum()])


def test_saved_tensors_with_hooks_are_left_to_autograd() -> None:
    network = Functional(linear, (4, 5), (4,)).double()
    x = torch.randn(FLAT, dtype=torch.float64)
    losses = loss_functions(24)
    rows = task_gradients([loss(z) for z in [network(x)] for loss in losses], trainable(network))
    with recording(network, way="ghost") as record, torch.autograd.graph.save_on_cpu():
        z = network(x)
    assert_close(record.gramian([loss(z) for loss in losses]), gramian(rows))
    assert ways(record) == {"own": "rows"}


@pytest.mark.parametrize("name", ["linear", "linear of rows", "conv2d", "attention"])
def test_bfloat16_activations_are_multiplied_in_float32(name: str) -> None:
    torch.manual_seed(0)
    make, shape, wanted = CASES[name]
    network, x = make(), torch.randn(shape)
    losses = loss_functions(network(x).numel())

    def run() -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            z = network(x)
        return [loss(z.float()) for loss in losses]

    rows = task_gradients(run(), trainable(network))
    with recording(network, way="ghost") as record:
        found = run()
    matrix = record.gramian(found)
    assert ways(record) == wanted
    # Autograd rounds each weight's gradient to bfloat16.
    torch.testing.assert_close(cosines(matrix), cosines(gramian(rows)), rtol=0, atol=1e-2)
    assert_close(matrix, gramian(rows), 2e-2)


def test_complex_weights_go_by_rows() -> None:
    network = Functional(
        lambda x, w: torch.view_as_real(linear(torch.complex(x, x.sin()), w)), (4, 5)
    )
    network.own[0] = nn.Parameter(torch.randn(4, 5, dtype=torch.complex128))
    x = torch.randn(FLAT, dtype=torch.float64)
    losses = loss_functions(48)
    rows = task_gradients([loss(z) for z in [network(x)] for loss in losses], trainable(network))
    with recording(network, way="ghost") as record:
        z = network(x)
    assert_close(record.gramian([loss(z) for loss in losses]), gramian(rows))
    assert ways(record) == {"own": "rows"}


@pytest.mark.parametrize("name", ["linear", "linear of rows without bias", "conv2d"])
def test_inputs_changed_in_place_are_refused_by_name(name: str) -> None:
    make, shape, _ = CASES[name]
    network, x = nn.Sequential(nn.Identity(), make()), torch.randn(shape)
    with recording(network, way="ghost") as record:
        z = network(x)
    x += 1
    with pytest.raises(ReconError, match=r"input of the layer 1\.own was changed in place after"):
        record.gramian([z.sum(), z.sin().sum()])


def test_inputs_changed_between_two_gramians_are_refused_by_name() -> None:
    network, x = Functional(linear, (4, 5)), torch.randn(FLAT)
    with recording(network, way="ghost") as record:
        z = network(x)
    losses = [z.sum(), z.sin().sum()]
    record.gramian(losses)
    x += 1
    with pytest.raises(ReconError, match=r"input of the layer own was changed in place after"):
        record.gramian(losses)


def test_a_graph_that_was_freed_is_refused_by_torch() -> None:
    network, x = Functional(linear, (4, 5)), torch.randn(FLAT)
    with recording(network, way="ghost") as record:
        z = network(x)
    losses = [z.sum(), z.sin().sum()]
    sum(losses).backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        record.gramian(losses)


def test_another_pytorch_goes_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nodes may have other names, or keep other things."""
    form = "libmtl_recon.gradients.graph_operations._FORMS"

    known = graph_operations._FORMS["AddmmBackward0"]
    for forms in ({}, {"AddmmBackward0": known._replace(saved="left")}):
        monkeypatch.setattr(form, forms)
        network, x = Functional(linear, (4, 5), (4,)).double(), torch.randn(FLAT).double()
        check(
            network,
            lambda network=network, x=x: [
                loss(z) for z in [network(x)] for loss in (torch.sum, torch.mean, torch.std)
            ],
            trainable(network),
            {"own": "rows"},
        )


def test_unknown_heads_are_not_read() -> None:
    """Parameters that are not the network's get their gradients by the passes."""
    network, head = Functional(linear, (4, 5)).double(), nn.Linear(4, 2).double()
    x = torch.randn(FLAT, dtype=torch.float64)
    with recording(network, way="ghost") as record:
        z = head(network(x))
    losses = [z.square().mean(), z.sin().mean()]
    wanted = [torch.autograd.grad(loss, head.weight, retain_graph=True)[0] for loss in losses]
    record.gramian(losses)
    record.backward(torch.ones(2))
    assert head.weight.grad is not None
    torch.testing.assert_close(head.weight.grad, wanted[0] + wanted[1])


@pytest.mark.parametrize(
    ("layer", "shape", "numbers"),
    [
        (nn.Linear(5, 4), FLAT, (1, 6, 5, 4)),
        (nn.Conv2d(4, 6, (3, 2), groups=2), PLANE, (2, 2 * 5 * 5, 2 * 6, 3)),
        (nn.ConvTranspose2d(4, 6, (3, 2), groups=2), PLANE, (2, 2 * 7 * 6, 2, 3 * 6)),
    ],
)
def test_modules_and_nodes_tell_the_same(
    layer: nn.Module, shape: tuple[int, ...], numbers: tuple[int, ...]
) -> None:
    """The numbers of groups and positions, and the sizes of the weight's two sides."""
    with noted(layer) as calls:
        z = layer(torch.randn(shape))
    by_node = graph_operations.call_at(z.grad_fn, {id(p): "layer" for p in layer.parameters()})
    assert by_node is not None
    assert by_node.numbers == calls.calls[z.grad_fn].numbers == numbers
    assert by_node.operation == calls.calls[z.grad_fn].operation


def test_a_product_with_a_matrix_has_its_sides_the_other_way_round() -> None:
    weight = nn.Parameter(torch.randn(5, 4))
    call = graph_operations.call_at((torch.randn(FLAT) @ weight).grad_fn, {id(weight): "layer"})
    assert call is not None
    assert call.numbers == (1, 6, 5, 4)


def test_many_calls_are_multiplied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that is called 50 times has one kernel, not 50 · 51 / 2."""
    contracted: list[int] = []

    original = products._contracted

    def counted(left: Tensor, right: Tensor) -> Tensor:
        contracted.append(1)
        return original(left, right)

    monkeypatch.setattr(products, "_contracted", counted)
    network = Both(nn.LSTMCell(5, 4), per_step).double()
    x = torch.randn(3, 50, 5, dtype=torch.float64)
    losses = loss_functions(12)
    check(
        network,
        lambda: [loss(z) for z in [network(x)] for loss in losses],
        trainable(network),
        {"layer": "products"},
    )
    assert len(contracted) == 2
