"""The LibMTL class: what it does to a model, its decoders, its optimisers and its checkpoints."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
import io
from typing import Any

import pytest
import torch
from LibMTL.architecture import HPS
from LibMTL.weighting import EW
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from libmtl_recon import ReconError, UsageError
from libmtl_recon.integrations.libmtl.weightings.rotograd import RotoGrad

TASKS = ["left", "right", "middle"]
ARGS: dict[str, Any] = {
    "rotograd_mode": "full",
    "rotograd_lr": 5e-3,
    "rotograd_decay": 0.99,
    "rotograd_burn_in": 3,
    "rotograd_map": "cayley",
    "rotograd_every": 1,
    "rotograd_size": None,
    "rotograd_alpha": 1.5,
}


class Model(HPS, RotoGrad):
    """What LibMTL's Trainer makes: the architecture first, then the weighting."""


class Plain(HPS, EW):
    """The same without rotations."""


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Tanh(), nn.Conv2d(6, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.unflatten(1, (1, 2, 2)))


def make(
    kind: type = Model, encoder: type[nn.Module] = Encoder, rep_grad: bool = False, **more: Any
) -> Any:
    torch.manual_seed(0)
    decoders = more.get("decoders") or {task: nn.Linear(5, 1) for task in TASKS}
    if encoder is Images and "decoders" not in more:
        decoders = {
            task: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 1))
            for task in TASKS
        }
    model = kind(
        TASKS, encoder, nn.ModuleDict(decoders), rep_grad, False, torch.device("cpu")
    ).double()
    model.init_param()
    return model


def losses_of(model: Any, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    x = torch.randn(8, 4, dtype=torch.float64)
    predictions = model(x)
    targets = {"left": x[:, :1], "right": -x[:, :1], "middle": x[:, 1:2]}
    return torch.stack([(predictions[t] - targets[t]).square().mean() for t in TASKS])


def train(model: Any, optimizer: Any, steps: range, **changes: Any) -> None:
    for step in steps:
        losses = losses_of(model, step)
        optimizer.zero_grad()
        model.backward(losses, **{**ARGS, **changes})
        optimizer.step()


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("rep_grad", [False, True])
@pytest.mark.parametrize("encoder", [Encoder, Images])
def test_the_first_step_is_the_papers(encoder: type[nn.Module], rep_grad: bool) -> None:
    model, plain = make(encoder=encoder, rep_grad=rep_grad), make(Plain, encoder)
    reps: dict[str, Tensor] = {}
    for task, decoder in plain.decoders.items():
        decoder.register_forward_pre_hook(
            lambda _, inputs, task=task: reps.__setitem__(task, inputs[0])
        )
    expected_losses = losses_of(plain)
    assert torch.equal(losses_of(model), expected_losses)
    z = reps["left"]
    gradients = [torch.autograd.grad(x, z, retain_graph=True)[0] for x in expected_losses]
    norms = torch.stack([g.norm() for g in gradients])
    update = sum(norms.mean() / n * g for n, g in zip(norms, gradients, strict=True))
    encoders = [list(m.encoder.parameters()) for m in (plain, model)]
    expected = torch.autograd.grad(z, encoders[0], update, retain_graph=True)
    expected_losses.sum().backward()

    weights = model.backward(losses_of(model), **ARGS)

    torch.testing.assert_close(torch.as_tensor(weights), norms.mean() / norms)
    torch.testing.assert_close([p.grad for p in encoders[1]], list(expected))
    for own, theirs in zip(model.decoders.parameters(), plain.decoders.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad)
    rotations = [model.rotograd.rotation(task) for task in TASKS]
    assert all(not torch.equal(r, torch.eye(5, dtype=r.dtype)) for r in rotations)


def test_names_of_the_parameters_stay_libmtls() -> None:
    model, plain = make(), make(Plain)
    model.backward(losses_of(model), **ARGS)
    own = [name for name in model.state_dict() if not name.startswith("rotograd")]
    assert own == list(plain.state_dict())
    assert all(isinstance(value, Tensor) for value in model.state_dict().values())


@pytest.mark.parametrize("mode", ["full", "rotate", "scale", "gradnorm"])
@pytest.mark.parametrize("encoder", [Encoder, Images])
def test_going_on_from_a_checkpoint_equals_never_having_stopped(
    encoder: type[nn.Module], mode: str
) -> None:
    changes = {"rotograd_mode": mode, "rotograd_every": 2}
    whole = make(encoder=encoder)
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.01)
    train(whole, optimizer, range(12), **changes)

    first = make(encoder=encoder)
    stopped = torch.optim.Adam(first.parameters(), lr=0.01)
    train(first, stopped, range(5), **changes)
    state, moments = through_a_file(first.state_dict()), through_a_file(stopped.state_dict())
    second = make(encoder=encoder)
    resumed = torch.optim.Adam(second.parameters(), lr=0.01)
    second.load_state_dict(state)
    resumed.load_state_dict(moments)
    train(second, resumed, range(5, 12), **changes)

    wanted, found = whole.state_dict(), second.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert int(wanted["rotograd.history.steps"]) == 12


@pytest.mark.parametrize("strict", [False, True])
def test_a_checkpoint_with_rotations_is_refused_without_them(strict: bool) -> None:
    model, plain = make(), make(Plain)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), range(2))
    with pytest.raises(ReconError, match="Load it with --weighting RotoGrad"):
        plain.load_state_dict(model.state_dict(), strict=strict)
    inside = nn.ModuleDict({"model": plain})
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    with pytest.raises(ReconError, match="Load it with --weighting RotoGrad"):
        inside.load_state_dict(state, strict=strict)
    # The other way round rotations start anew.
    for new in (make(), model):
        new.load_state_dict(plain.state_dict(), strict=strict)
        assert torch.equal(losses_of(new), losses_of(plain))


def test_a_checkpoint_of_the_mode_scale_loads_anywhere() -> None:
    model, plain = make(), make(Plain)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), range(2), rotograd_mode="scale")
    plain.load_state_dict(model.state_dict())
    assert torch.equal(losses_of(model), losses_of(plain))


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("encoder", [Encoder, Images])
def test_the_rotations_can_be_merged_into_the_decoders(
    encoder: type[nn.Module], size: int | None
) -> None:
    model, plain = make(encoder=encoder), make(Plain, encoder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, optimizer, range(20), rotograd_size=size, rotograd_lr=0.05)
    before = copy.deepcopy(model.state_dict())
    plain.load_state_dict(model.folded_state_dict())
    model.eval(), plain.eval()
    x = torch.randn(7, 4, dtype=torch.float64)
    with torch.no_grad():
        for task in TASKS:
            torch.testing.assert_close(plain(x)[task], model(x)[task], rtol=0, atol=1e-12)
    assert not torch.equal(
        plain.state_dict()[
            "decoders.left.weight" if encoder is Encoder else "decoders.left.2.weight"
        ],
        before["decoders.left.weight" if encoder is Encoder else "decoders.left.2.weight"],
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_decoder_that_cannot_take_a_rotation_says_so() -> None:
    decoders = {task: nn.Sequential(nn.ReLU(), nn.Linear(5, 1)) for task in TASKS}
    model = make(decoders=decoders)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), range(1))
    with pytest.raises(ReconError, match="not into ReLU"):
        model.folded_state_dict()


def test_the_networks_optimiser_leaves_the_rotations_alone() -> None:
    model = make()
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), range(3))
    # Built now, it holds them.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5, weight_decay=0.5)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameter = model.rotograd.rotations["left"].parameter
    assert id(parameter) in held
    optimizer.zero_grad(set_to_none=False)
    model.backward(losses_of(model), **ARGS)
    before = model.rotograd.rotation("left").clone()
    assert parameter.grad is None
    optimizer.step()
    assert torch.equal(model.rotograd.rotation("left"), before)


def test_an_absent_task_keeps_its_rotation_and_the_others_go_on() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, optimizer, range(2))
    state = {k: v.clone() for k, v in model.state_dict().items() if "rotograd" in k}
    losses = losses_of(model)
    model.task_name = ["left", "middle"]  # as it looks in such a step
    weights = model.backward(losses[[0, 2]], **ARGS)
    assert weights.shape == (2,)
    for name, value in state.items():
        if "right" in name:
            assert torch.equal(model.state_dict()[name], value), name
    assert not torch.equal(
        model.state_dict()["rotograd.rotations.middle.parametrizations.weight.original"],
        state["rotograd.rotations.middle.parametrizations.weight.original"],
    )


def test_the_learning_rate_falls_from_step_to_step() -> None:
    model = make()
    assert model.leader_lr(ARGS) == 5e-3
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), range(3))
    assert model.leader_lr(ARGS) == pytest.approx(5e-3 * 0.99**3)
    assert model.leader_lr(ARGS, 10) == pytest.approx(5e-3 * 0.99**13)


def test_a_task_with_a_nan_loss_is_named() -> None:
    model = make()
    losses = losses_of(model) * torch.tensor([1.0, float("nan"), 1.0], dtype=torch.float64)
    with pytest.raises(ReconError, match="'right'"):
        model.backward(losses, **ARGS)


def test_wrong_flags_are_named_as_flags() -> None:
    model = make()
    losses = losses_of(model)
    with pytest.raises(UsageError, match="--rotograd_size must be at most the 5 channels"):
        model.backward(losses, **{**ARGS, "rotograd_size": 6})
    with pytest.raises(UsageError, match="--rotograd_mode must be one of"):
        RotoGrad.check_arguments(TASKS, {**ARGS, "rotograd_mode": "both"})
    with pytest.raises(UsageError, match="weight_args must hold rotograd_size"):
        RotoGrad.check_arguments(TASKS, {})


def test_what_rotograd_is_not_defined_for_is_refused() -> None:
    one = nn.Linear(5, 1)
    with pytest.raises(ReconError, match="a separate decoder for each"):
        make(decoders=dict.fromkeys(TASKS, one))

    class Lists(Encoder):
        def forward(self, x: Tensor) -> Any:
            return (super().forward(x),) * 2

    with pytest.raises(ReconError, match="task 'left' gets tuple"):
        losses_of(make(encoder=Lists))

    class Frozen(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.requires_grad_(False)

    with pytest.raises(ReconError, match="shared parameters that train"):
        make(encoder=Frozen)


def test_a_copy_of_the_model_rotates_by_its_own_rotations() -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, optimizer, range(3))
    twin = copy.deepcopy(model)
    x = torch.randn(3, 4, dtype=torch.float64)
    model.eval(), twin.eval()
    before = twin(x)["left"].detach()
    model.train()
    train(model, optimizer, range(20), rotograd_lr=0.1)
    assert torch.equal(twin(x)["left"].detach(), before)


@pytest.mark.parametrize("mode", ["full", "gradnorm"])
@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_of_the_weights_rotates(mode: str, steps_before: int, use_buffers: bool) -> None:
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train(model, optimizer, range(steps_before), rotograd_mode=mode)
    halves = get_ema_multi_avg_fn(0.5)
    averaged = AveragedModel(model, multi_avg_fn=halves, use_buffers=use_buffers)
    wanted: dict[str, Tensor] = {}
    for step in range(5):
        train(model, optimizer, range(step, step + 1), rotograd_mode=mode, rotograd_lr=0.1)
        averaged.update_parameters(model)
        for name, parameter in model.named_parameters():
            now = parameter.detach().clone()
            wanted[name] = (wanted[name] + now) / 2 if name in wanted else now
    found = dict(averaged.module.named_parameters())
    assert found.keys() == wanted.keys()
    assert any("rotograd.rotations.left" in name for name in found)
    for name, parameter in wanted.items():
        torch.testing.assert_close(found[name].detach(), parameter)
    for task in TASKS:
        matrix = averaged.module.rotograd.rotation(task)
        assert matrix is not None
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)).double())
        assert matrix.det() > 0
        assert not torch.allclose(matrix, model.rotograd.rotation(task))
    averaged.eval()
    x = torch.randn(3, 4, dtype=torch.float64)
    before = averaged(x)["left"]
    averaged.module.rotograd.rotations["left"].start_at(torch.eye(len(matrix)).double())
    assert not torch.allclose(averaged(x)["left"], before)


def test_copies_from_before_the_rotations_take_the_state_and_give_it() -> None:
    model = make()
    twin = copy.deepcopy(model)
    of_twin = copy.deepcopy(twin)
    averaged = AveragedModel(model)
    train(model, torch.optim.SGD(model.parameters(), lr=0.01), range(3), rotograd_lr=0.1)
    assert twin.state_dict().keys() == of_twin.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(twin.rotograd.rotation("left"), torch.eye(5).double())
    x = torch.randn(3, 4, dtype=torch.float64)
    model.eval()
    for copied in (twin, of_twin, averaged.module):
        copied.eval()
        copied.load_state_dict(model.state_dict())
        assert torch.equal(copied(x)["left"], model(x)["left"])
    averaged.update_parameters(model)
    fresh = AveragedModel(make())
    fresh.load_state_dict(averaged.state_dict())
    fresh.eval()
    assert torch.equal(fresh(x)["left"], averaged(x)["left"])


def test_losses_must_be_one_per_task() -> None:
    model = make()
    losses = losses_of(model)
    for wrong in (losses[:2], losses[:, None], list(losses)):
        with pytest.raises(UsageError, match=r"losses must be a tensor \[3\], one loss for each"):
            model.backward(wrong, **ARGS)
