"""One step of any loop, against plain autograd per task in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import libmtl_recon
from libmtl_recon.errors import ReconError, UsageError
from libmtl_recon.weighting.step import StepResult, step

TASKS = ("digit", "article", "shape")
WEIGHTS = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)


class Checkpointed(nn.Module):
    """A layer in a checkpoint, around a residual connection."""

    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.layer, self.reentrant = nn.Linear(6, 6), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return x + checkpoint(self.layer, x, use_reentrant=self.reentrant).sin()


class Phases(nn.Module):
    """Complex parameters, and a real representation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.turn = nn.Parameter(torch.randn(6, 6, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return (self.first(x).to(torch.complex128) @ self.turn).abs()


class Frozen(nn.Sequential):
    """Its first layer does not train."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
        self[0].requires_grad_(False)


class Image(nn.Sequential):
    """Convolutions at few positions and at many, and a batch norm."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 3, 2)),
            nn.Conv2d(1, 9, 1),
            nn.BatchNorm2d(9),
            nn.ReLU(),
            nn.Conv2d(9, 12, 2),
            nn.Flatten(),
            nn.Linear(24, 6),
        )


class Words(nn.Module):
    """A sparse embedding, whose gradients stay sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 6, sparse=True), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.words(x[:, 0].abs().mul(2).long().clamp_max(8)).tanh())


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layers": lambda: nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 6)),
    "image": Image,
    "attention": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.TransformerEncoderLayer(6, 2, 8, 0.0), nn.Flatten()
    ),
    "checkpoint": Checkpointed,
    "complex": Phases,
    "frozen": Frozen,
    "sparse": Words,
}


class Model(nn.Module):
    """An encoder with a head per task."""

    def __init__(self, encoder: nn.Module, tasks: Sequence[str] = TASKS) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in tasks})

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        z = self.encoder(x)
        return {
            task: (head(z) - place).square().mean()
            for place, (task, head) in enumerate(self.heads.items())
        }


def made(name: str = "layers", tasks: Sequence[str] = TASKS) -> tuple[Model, Tensor]:
    torch.manual_seed(0)
    return Model(NETWORKS[name](), tasks).double(), torch.randn(5, 6, dtype=torch.float64)


def oracle(model: Model, losses: dict[str, Tensor]) -> tuple[Tensor, list[list[Tensor]]]:
    """The Gramian of the encoder's gradients, and all gradients per task and parameter."""
    found = []
    for loss in losses.values():
        gradients = torch.autograd.grad(
            loss,
            [p for p in model.parameters() if p.requires_grad],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        found.append([g.to_dense() if g.is_sparse else g for g in gradients])
    count = sum(p.requires_grad for p in model.encoder.parameters())
    rows = [
        torch.cat([torch.view_as_real(g).flatten() if g.is_complex() else g.flatten() for g in own])
        for own in (task[:count] for task in found)
    ]
    matrix = torch.stack(rows)
    return matrix @ matrix.T, found


def grads(model: nn.Module) -> list[Tensor]:
    return [
        p.grad.to_dense() if p.grad.is_sparse else p.grad
        for p in model.parameters()
        if p.grad is not None
    ]


def assert_same(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("whole", [True, False], ids=["heads inside", "heads outside"])
@pytest.mark.parametrize("name", NETWORKS)
def test_shared_gradients_are_weighed_and_heads_get_their_own(name: str, whole: bool) -> None:
    model, x = made(name)
    twin = copy.deepcopy(model)
    gramian, gradients = oracle(twin, twin.losses(x))
    seen = []

    def weighting(matrix: Tensor) -> Tensor:
        seen.append(matrix)
        return WEIGHTS

    found = step(model.losses(x), model if whole else model.encoder, weighting)
    torch.testing.assert_close(seen[0], gramian, rtol=1e-10, atol=1e-12)
    assert seen[0].dtype == torch.float64
    shared = sum(p.requires_grad for p in model.encoder.parameters())
    wanted = [
        sum(w * g for w, g in zip(WEIGHTS if place < shared else (1, 1, 1), of_tasks, strict=True))
        for place, of_tasks in enumerate(zip(*gradients, strict=True))
    ]
    assert_same(grads(model), wanted)
    assert found.tasks == TASKS
    assert found.named_weights() == {"digit": 0.5, "article": -2.0, "shape": 3.0}
    torch.testing.assert_close(found.gramian, gramian, rtol=1e-10, atol=1e-12)
    if name == "sparse":
        assert model.encoder.words.weight.grad.is_sparse


@given(
    st.sampled_from([name for name in NETWORKS if name != "sparse"]),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_equal_weights_are_the_plain_backward_pass(
    name: str, count: int, listed: bool, before: bool
) -> None:
    model, x = made(name, [f"task{place}" for place in range(count)])
    twin = copy.deepcopy(model)
    for one in (model, twin):
        if before:
            sum(one.losses(x.flip(0)).values()).backward()
    losses = model.losses(x)
    step(list(losses.values()) if listed else losses, model, lambda m: torch.ones(len(m)))
    sum(twin.losses(x).values()).backward()
    assert_same(grads(model), grads(twin))


@given(st.floats(1e-3, 1e3), st.permutations(range(3)))
@settings(max_examples=8, deadline=None)
def test_weights_follow_the_order_of_the_losses(scale: float, order: list[int]) -> None:
    """A weighting of lengths makes scaled losses' gradients as long as the others'."""
    model, x = made()

    def unit(matrix: Tensor) -> Tensor:
        return matrix.diagonal().rsqrt()

    plain = step(model.losses(x), model, unit)
    first = grads(model.encoder)
    model.zero_grad()
    losses = model.losses(x)
    tasks = [TASKS[place] for place in order]
    turned = step(
        {task: losses[task] * (scale if task == "digit" else 1) for task in tasks}, model, unit
    )
    assert_same(grads(model.encoder), first)
    assert turned.tasks == tuple(tasks)
    for task, weight in turned.named_weights().items():
        expected = plain.named_weights()[task] / (scale if task == "digit" else 1)
        assert weight == pytest.approx(expected, rel=1e-10)


def test_gradients_add_up_over_batches() -> None:
    model, x = made()
    twin = copy.deepcopy(model)
    kept = None
    for batch in (x, 2 * x):
        step(model.losses(batch), model, lambda m: WEIGHTS)
        kept = kept or [p.grad for p in model.parameters()]
        shared = torch.autograd.grad(
            sum(w * loss for w, loss in zip(WEIGHTS, twin.losses(batch).values(), strict=True)),
            list(twin.encoder.parameters()),
        )
        own = torch.autograd.grad(sum(twin.losses(batch).values()), list(twin.heads.parameters()))
        for p, g in zip(twin.parameters(), [*shared, *own], strict=True):
            p.grad = g if p.grad is None else p.grad + g
    assert_same(grads(model), grads(twin))
    assert all(p.grad is first for p, first in zip(model.parameters(), kept, strict=True))


def test_parameters_outside_of_the_network_get_the_plain_gradient_of_the_sum() -> None:
    model, x = made()
    outside = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    losses = {task: loss * outside for task, loss in model.losses(x).items()}
    (wanted,) = torch.autograd.grad(sum(losses.values()), outside, retain_graph=True)
    step(losses, model, lambda m: WEIGHTS)
    torch.testing.assert_close(outside.grad, wanted, rtol=1e-12, atol=0)


def test_what_is_shared_can_be_named() -> None:
    model, x = made()
    twin = copy.deepcopy(model)
    last = list(model.encoder[2].parameters())
    found = step(model.losses(x), model, lambda m: WEIGHTS, shared=iter(last))
    losses = list(twin.losses(x).values())
    rows = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        loss, list(twin.encoder[2].parameters()), retain_graph=True
                    )
                ]
            )
            for loss in losses
        ]
    )
    torch.testing.assert_close(found.gramian, rows @ rows.T, rtol=1e-10, atol=1e-12)
    assert_same([torch.cat([p.grad.flatten() for p in last])], [WEIGHTS @ rows])
    (plain,) = torch.autograd.grad(sum(losses), twin.encoder[0].weight)
    assert_same([model.encoder[0].weight.grad], [plain])


class TestAbsentTasks:
    def test_the_weighting_sees_those_that_are_present(self) -> None:
        model, x = made()
        twin = copy.deepcopy(model)
        losses: dict[str, Tensor | None] = dict(model.losses(x))
        losses["article"] = None
        found = step(losses, model, lambda m: torch.arange(1.0, 1 + len(m)))
        assert found.named_weights() == {"digit": 1.0, "article": 0.0, "shape": 2.0}
        assert model.heads["article"].weight.grad is None
        rest = twin.losses(x)
        del rest["article"]
        gramian, _ = oracle(twin, rest)
        torch.testing.assert_close(found.gramian[[0, 2]][:, [0, 2]], gramian)
        assert found.gramian[1].tolist() == found.gramian[:, 1].tolist() == [0.0, 0.0, 0.0]

    @pytest.mark.parametrize("others", [{}, {"article": None, "shape": None}])
    def test_one_alone_is_a_plain_backward_pass(self, others: dict[str, None]) -> None:
        model, x = made()
        twin = copy.deepcopy(model)

        def weighting(matrix: Tensor) -> Tensor:
            raise AssertionError("There is nothing to weigh.")

        found = step({"digit": model.losses(x)["digit"], **others}, model, weighting)
        twin.losses(x)["digit"].backward()
        assert_same(grads(model), grads(twin))
        assert found.weights.tolist() == [1.0] + [0.0] * len(others)
        squared = sum(float(g.square().sum()) for g in grads(twin))
        assert float(found.gramian[0, 0]) == pytest.approx(squared, rel=1e-12)

    def test_one_alone_takes_one_pass(self) -> None:
        """Also where products would be the cheaper way, which take two."""
        torch.manual_seed(0)
        wide = nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 6))
        model, passes = Model(wide), []
        losses = model.losses(torch.randn(2, 6))
        losses["shape"].register_hook(passes.append)
        step({"shape": losses["shape"]}, model, lambda m: WEIGHTS, shared=wide.parameters())
        assert len(passes) == 1


class TestWeightings:
    def test_an_object_with_a_state(self) -> None:
        class Counting:
            """Weighs by how often it was asked."""

            def __init__(self) -> None:
                self.asked = 0

            def weights(self, gramian: Tensor) -> Tensor:
                self.asked += 1
                return torch.full((len(gramian),), float(self.asked))

        model, x = made()
        weighting = Counting()
        found = [step(model.losses(x), model, weighting).weights.tolist() for _ in range(2)]
        assert found == [[1.0] * 3, [2.0] * 3]

    @pytest.mark.parametrize(
        "weights", [[1, 2, 3], (torch.arange(1, 4)), torch.arange(1, 4).half()]
    )
    def test_weights_of_any_real_type(self, weights: Any) -> None:
        model, x = made()
        found = step(model.losses(x), model, lambda m: weights)
        assert found.weights.tolist() == [1.0, 2.0, 3.0]
        assert found.weights.dtype == torch.float64

    @pytest.mark.parametrize("kind", ["function", "method"])
    def test_one_that_writes_into_the_gramian_writes_into_its_own(self, kind: str) -> None:
        model, x = made()

        def spoil(matrix: Tensor) -> Tensor:
            matrix.zero_()
            return torch.ones(len(matrix))

        class Spoiling:
            weights = staticmethod(spoil)

        gramian, _ = oracle(model, model.losses(x))
        found = step(model.losses(x), model, spoil if kind == "function" else Spoiling())
        torch.testing.assert_close(found.gramian, gramian)

    def test_gradops(self) -> None:
        model, x = made()
        gramian, _ = oracle(model, model.losses(x))
        found = libmtl_recon.step(model.losses(x), model, libmtl_recon.gradops_weights)
        assert isinstance(found, StepResult)
        torch.testing.assert_close(found.weights, libmtl_recon.gradops_weights(gramian))

    def test_torchjd(self) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed")
        model, x = made()
        gramian, _ = oracle(model, model.losses(x))
        found = step(model.losses(x), model, aggregation.UPGradWeighting())
        torch.testing.assert_close(found.weights, aggregation.UPGradWeighting()(gramian))

    @pytest.mark.parametrize("wrong", ["UPGrad", "Random"])
    def test_torchjd_s_aggregators_take_no_gramian(self, wrong: str) -> None:
        aggregation = pytest.importorskip("torchjd.aggregation", reason="torchjd is not installed")
        model, x = made()
        with pytest.raises(UsageError, match="must be a TorchJD weighting of the Gramian"):
            step(model.losses(x), model, getattr(aggregation, wrong)())
        assert not grads(model)

    @pytest.mark.parametrize(
        ("weighting", "rule"),
        [
            (lambda m: m, r"must return 3 real numbers.* returned \[3, 3\]"),
            (lambda m: (torch.ones(3), m), "returned tuple"),
            (lambda m: None, "returned NoneType"),
            (lambda m: "abc", "returned str"),
            (lambda m: torch.ones(2), r"returned \[2\]"),
            (lambda m: torch.ones(3) * 1j, "returned torch.complex64"),
            (lambda m: torch.tensor([1.0, float("nan"), 0.0]), r"returned \[1.0, nan, 0.0\]"),
        ],
    )
    def test_weights_that_are_none(self, weighting: Any, rule: str) -> None:
        model, x = made()
        with pytest.raises(ReconError, match=rule):
            step(model.losses(x), model, weighting)
        assert not grads(model)

    @pytest.mark.parametrize("weighting", ["pcgrad", None, torch.ones(3), nn.Identity])
    def test_no_weighting(self, weighting: Any) -> None:
        model, x = made()
        with pytest.raises(UsageError, match="weighting must be"):
            step(model.losses(x), model, weighting)


class TestScaler:
    def scaler(self, scale: float = 1024.0) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=scale)

    def test_a_scaled_step_is_the_plain_one(self) -> None:
        model, x = made()
        twin = copy.deepcopy(model)
        scaler = self.scaler()
        optimizers = [torch.optim.SGD(one.parameters(), lr=0.1) for one in (model, twin)]
        scaled = step(model.losses(x), model, lambda m: m.diagonal(), scaler=scaler)
        plain = step(twin.losses(x), twin, lambda m: m.diagonal())
        torch.testing.assert_close(scaled.weights, plain.weights)
        torch.testing.assert_close(scaled.gramian, plain.gramian)
        assert_same(grads(model), [1024 * g for g in grads(twin)])
        scaler.step(optimizers[0])
        optimizers[1].step()
        assert_same(list(model.parameters()), list(twin.parameters()))

    def test_a_caller_that_records_no_gradients(self) -> None:
        model, x = made()
        losses = model.losses(x)
        with torch.no_grad():
            found = step(losses, model, lambda m: WEIGHTS, scaler=self.scaler())
        gramian, _ = oracle(model, model.losses(x))
        torch.testing.assert_close(found.gramian, gramian)

    def test_losses_in_half_precision(self) -> None:
        """The scaled losses are beyond float16, which their gradients are not."""
        model, x = made()
        losses = {task: 8 + loss.half() for task, loss in model.losses(x).items()}
        found = step(losses, model, lambda m: WEIGHTS, scaler=self.scaler(2.0**15))
        gramian, _ = oracle(model, model.losses(x))
        torch.testing.assert_close(found.gramian, gramian, rtol=5e-3, atol=1e-3)

    def test_losses_that_were_scaled_before(self) -> None:
        model, x = made()
        twin = copy.deepcopy(model)
        scaler = self.scaler()
        losses = {task: scaler.scale(loss) for task, loss in model.losses(x).items()}
        step(losses, model, lambda m: WEIGHTS)
        step(twin.losses(x), twin, lambda m: WEIGHTS)
        assert_same(grads(model), [1024 * g for g in grads(twin)])

    def test_a_step_that_overflows_is_left_out_by_the_scaler(self) -> None:
        model, x = made()
        model.float()
        before = copy.deepcopy(model.state_dict())
        scaler = self.scaler(1e38)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = {task: loss * 1e4 for task, loss in model.losses(x.float()).items()}

        def weighting(matrix: Tensor) -> Tensor:
            raise AssertionError("There is nothing to weigh.")

        found = step(losses, model, weighting, scaler=scaler)
        assert not found.finite
        assert found.weights.isnan().all()
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == pytest.approx(5e37)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])


class TestRefusals:
    @pytest.mark.parametrize(
        ("losses", "rule"),
        [
            ({}, r"losses must have the loss of at least one task \(got 'no loss'\)"),
            ([None, None], r"must have the loss of at least one task \(got \"None for '0', '1'\""),
            (torch.ones(3), r"must be a dict or a list of losses \(got 'a tensor \[3\]'\)"),
            ("ab", "must be a dict or a list"),
            (
                [torch.ones(2), torch.ones(2)],
                r"task '0' must be a tensor of one number \(got \[2\]",
            ),
            ({"a": 1.0, "b": 2.0}, r"task 'a' must be a tensor of one number \(got 1.0\)"),
            ({"a": torch.ones(())}, "task 'a' must have a graph"),
            ({1: torch.ones(()), "1": torch.ones(())}, "must have tasks of different names"),
        ],
    )
    def test_losses_that_are_none(self, losses: Any, rule: str) -> None:
        model, _ = made()
        with pytest.raises(UsageError, match=rule):
            step(losses, model, lambda m: WEIGHTS)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_loss_that_is_not_finite(self, value: float) -> None:
        model, x = made()
        losses = model.losses(x)
        losses["shape"] = losses["shape"] * value
        with pytest.raises(UsageError, match=f"loss of task 'shape' must be finite .got {value}"):
            step(losses, model, lambda m: WEIGHTS)

    def test_a_gradient_that_is_not_finite(self) -> None:
        model, x = made()
        losses = model.losses(x)
        z = model.encoder(x)
        losses["article"] = losses["article"] + (z - z.detach()).sum().abs().sqrt()
        with pytest.raises(
            ReconError, match=r"task 'article' is not finite in the layer encoder\.0"
        ):
            step(losses, model, lambda m: WEIGHTS)
        assert not grads(model)

    def test_nothing_shared(self) -> None:
        model, x = made()
        with pytest.raises(ReconError, match="No trainable parameter of the network is reach"):
            step(model.losses(x), model.heads, lambda m: WEIGHTS)
        other = iter([nn.Parameter(torch.ones(2))])
        with pytest.raises(ReconError, match="No trainable parameter of `shared` is reached"):
            step(model.losses(x), model, lambda m: WEIGHTS, shared=other)

    def test_a_graph_that_was_freed(self) -> None:
        model, x = made()
        losses = model.losses(x)
        step(losses, model, lambda m: WEIGHTS)
        with pytest.raises(ReconError, match="was freed by an earlier backward pass"):
            step(losses, model, lambda m: WEIGHTS)

    def test_no_scaler(self) -> None:
        model, x = made()
        with pytest.raises(UsageError, match="scaler must be a"):
            step(model.losses(x), model, lambda m: WEIGHTS, scaler=2.0)  # type: ignore[arg-type]

    def test_a_checkpoint_that_hides_its_parameters(self) -> None:
        torch.manual_seed(0)
        model = Model(nn.Sequential(nn.Linear(6, 6), Checkpointed(reentrant=True)))
        with pytest.raises(ReconError, match="use_reentrant=False"):
            step(model.losses(torch.randn(4, 6)), model, lambda m: WEIGHTS)

    def test_no_network(self) -> None:
        model, x = made()
        with pytest.raises(UsageError, match="network must be a"):
            step(model.losses(x), list(model.parameters()), lambda m: WEIGHTS)  # type: ignore[arg-type]

    def test_a_network_that_sends_its_gradients(self) -> None:
        # A process group takes its time; only the wrapper's class is looked at.
        wrapper = type("DistributedDataParallel", (Model,), {})
        model = wrapper(NETWORKS["layers"]()).double()
        with pytest.raises(ReconError, match="The network is a DistributedDataParallel"):
            step(model.losses(torch.randn(4, 6).double()), model, lambda m: WEIGHTS)
        assert not grads(model)

    def test_one_of_several_processes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, x = made()
        monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
        monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
        with pytest.raises(ReconError, match="This is one of 2 processes of a process group"):
            step(model.losses(x), model, lambda m: WEIGHTS)
        assert not grads(model)
