"""Scoring watches a training run: it counts what Definition 3 counts, and changes nothing."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import contextlib
import itertools
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import LibMTL.weighting as weightings
import numpy as np
import pytest
import torch
from LibMTL import Trainer
from LibMTL.architecture import HPS, AbsArchitecture, MMoE
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import Tensor, nn

from libmtl_recon import ReconError, UsageError
from libmtl_recon.architecture.libmtl import Recon
from libmtl_recon.conflict.grid import EDGES
from libmtl_recon.conflict.schedule import Schedule, UntilStable
from libmtl_recon.launcher import StopRun
from libmtl_recon.plugin.observing import Observer, observe
from libmtl_recon.plugin.scoring import ScoringObserver

TASKS = ("left", "right", "middle")
EPOCHS, BATCHES, SIZE = 2, 4, 12
ARGUMENTS = {
    "GradOPS": {"gradops_alpha": -1.0},
    "RotoGrad": {
        "rotograd_mode": "full",
        "rotograd_lr": 5e-3,
        "rotograd_decay": 0.99,
        "rotograd_burn_in": 2,
        "rotograd_map": "cayley",
        "rotograd_every": 1,
        "rotograd_size": None,
        "rotograd_alpha": 1.5,
    },
    "DWA": {"T": 2.0},
    "RLW": {"dist": "Normal"},
    "GradNorm": {"alpha": 1.5},
    "MGDA": {"mgda_gn": "none"},
    "CAGrad": {"calpha": 0.5, "rescale": 1},
    "GradVac": {"beta": 0.5},
    "GradDrop": {"leak": 0.0},
}


class Encoder(nn.Module):
    """With all that makes training depend on its random numbers and on its running state."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 8)
        self.bn1 = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.fc2 = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.drop(torch.tanh(self.bn1(self.fc1(x)))))


class PartlyFrozen(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.fc1.bias.requires_grad_(False)
        self.bn1.requires_grad_(False)


class WithIdleLayer(Encoder):
    """A layer that no task reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)


class Recorded:
    """Mixed into a weighting: keeps each step's cosines, taken by hand."""

    cosines: list[list[list[float]]]

    def backward(self, losses: Tensor, **kwargs: Any) -> Any:
        if not hasattr(self, "cosines"):
            self.cosines = []
        layers = [[p for p in m.parameters() if p.requires_grad] for m in self.encoder.children()]
        step = []
        for layer in (parameters for parameters in layers if parameters):
            rows = [self._gradient(losses, task, layer) for task in range(len(losses))]
            step.append([_cosine(a, b) for a, b in itertools.combinations(rows, 2)])
        self.cosines.append(step)
        return super().backward(losses, **kwargs)

    def _gradient(self, losses: Tensor, task: int, layer: Sequence[Tensor]) -> Any:
        name = self.task_name[task]
        if hasattr(self, "rotograd"):
            cut = self.rotograd.cuts.of(name)
            (seeds,) = torch.autograd.grad(losses[task], cut.leaf, retain_graph=True)
            outputs = cut.source
        elif self.rep_grad:
            leaf = self.rep_tasks[name]
            (seeds,) = torch.autograd.grad(losses[task], leaf, retain_graph=True)
            outputs = self.rep[name] if isinstance(self.rep, dict) else self.rep
        else:
            outputs, seeds = losses[task], None
        parts = torch.autograd.grad(outputs, layer, seeds, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(parts, layer, strict=True)]
        return torch.cat([g.flatten() for g in parts]).double().numpy()


def _cosine(u: Any, v: Any) -> float:
    norms = float(np.linalg.norm(u) * np.linalg.norm(v))
    return float(u @ v) / norms if norms else float("nan")


class Batches:
    """Images in, one class for each task out."""

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(3)
        for _ in range(BATCHES):
            x = torch.randn(SIZE, 6, generator=generator)
            yield x, {task: (x[:, i] > 0).long() for i, task in enumerate(TASKS)}


class OneTask(Batches):
    """With ``multi_input`` each task has its own loader, and labels that are tensors."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __iter__(self) -> Any:
        for x, labels in super().__iter__():
            yield x + self.index, labels[TASKS[self.index]]


def build(
    weighting: type,
    encoder: type[nn.Module] = Encoder,
    tasks: Sequence[str] = TASKS,
    **options: Any,
) -> Any:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)  # PCGrad and GradVac draw from it
    return Trainer(
        task_dict={
            task: {
                "metrics": ["Acc"],
                "metrics_fn": AccMetric(),
                "loss_fn": CELoss(),
                "weight": [1],
            }
            for task in tasks
        },
        weighting=weighting,
        architecture=options.pop("architecture", HPS),
        encoder_class=encoder,
        decoders=nn.ModuleDict({task: nn.Linear(5, 2) for task in tasks}),
        rep_grad=options.pop("rep_grad", False),
        multi_input=options.pop("multi_input", False),
        optim_param=options.pop("optim_param", {"optim": "adam", "lr": 0.01}),
        scheduler_param=None,
        weight_args=ARGUMENTS.get(weighting.__name__, {}),
        arch_args=options.pop("arch_args", {}),
        **options,
    )


def train(trainer: Any, loader: Any = None) -> dict[str, Tensor]:
    """Train; returns the final state, and the losses of each epoch under ``losses``."""
    loader = loader or Batches()
    trainer.train(loader, loader, EPOCHS)
    state = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    return state | {"losses": torch.from_numpy(trainer.model.train_loss_buffer)}


def scored(weighting: type, **options: Any) -> tuple[ScoringObserver, Any, dict[str, Tensor]]:
    loader = options.pop("loader", None)
    observer = ScoringObserver()
    with observe(observer):
        trainer = build(weighting, **options)
        state = train(trainer, loader)
    return observer, trainer, state


def recorded(name: str) -> type:
    return type(name, (Recorded, getattr(weightings, name)), {})


def expected(cosines: list[list[list[float]]], S: float) -> list[int]:
    """Definition 3, over the cosines that were taken by hand."""
    return [sum(c < S for step in cosines for c in step[layer]) for layer in range(len(cosines[0]))]


EVERY = ["EW", "UW", "DWA", "GLS", "RLW", "GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad"]
EVERY += ["IMTL", "GradOPS", "RotoGrad"]


@pytest.mark.parametrize("name", EVERY)
def test_counts_are_definition_3_and_training_is_unchanged(name: str) -> None:
    observer, trainer, state = scored(recorded(name))
    profile = observer.profile()
    assert profile is not None
    assert profile.steps + observer.missed == EPOCHS * BATCHES
    assert observer.missed == 0
    assert profile.layer_names == ("fc1", "bn1", "fc2")
    for S in EDGES[1:201:3]:
        assert list(profile.scores(float(S)).values()) == expected(trainer.model.cosines, float(S))
    assert sum(profile.scores(0.0).values()) > 0
    # To the last bit what the same run gives when nobody looks.
    plain = train(build(getattr(weightings, name)))
    assert plain.keys() == state.keys()
    for key, value in plain.items():
        assert torch.equal(value, state[key]), key


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("name", ["EW", "UW", "DWA", "GLS", "RLW", "GradNorm"])
def test_weighted_losses_are_differentiated_once_a_task(
    name: str, multi_input: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T backward passes, not T + 1, and the same training up to rounding."""
    passes = []
    backward = torch.autograd.backward

    def counted(tensors: Any, *args: Any, **kwargs: Any) -> None:
        tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        passes.append(len(tensors))
        backward(tensors, *args, **kwargs)

    options: dict[str, Any] = {"optim_param": {"optim": "sgd", "lr": 0.1}}
    options["multi_input"] = multi_input
    loader = {task: OneTask(i) for i, task in enumerate(TASKS)} if multi_input else Batches()
    by_hand, _, _ = scored(recorded(name), loader=loader, **options)
    plain = train(build(getattr(weightings, name), **options), loader)
    monkeypatch.setattr(torch.autograd, "backward", counted)
    observer, _, state = scored(getattr(weightings, name), loader=loader, **options)
    profile, expected_profile = observer.profile(), by_hand.profile()
    assert profile is not None
    assert expected_profile is not None
    assert observer.missed == 0
    assert (profile.histogram == expected_profile.histogram).all()
    for key, value in plain.items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-11)
    # RLW's weights and those of a softmax are all above 0. Each step has one pass a task; those
    # beside them are of the T-vector of losses, in which no network is.
    assert max(passes) == 1


class Signed(weightings.EW):  # type: ignore[misc]
    """A weighting that gives one task the weight 0 and one a negative weight."""

    def backward(self, losses: Tensor, **_: Any) -> Any:
        (losses * torch.tensor([1.0, 0.0, -0.5])).sum().backward()
        return np.array([1.0, 0.0, -0.5])


@pytest.mark.usefixtures("_float64")
def test_weights_that_are_not_positive_hide_no_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signed, "__module__", "LibMTL.weighting.Signed")
    monkeypatch.setattr(Signed.backward, "__module__", "LibMTL.weighting.Signed")
    options: dict[str, Any] = {"optim_param": {"optim": "sgd", "lr": 0.1}}
    by_hand, _, _ = scored(type("Signed", (Recorded, Signed), {}), **options)
    observer, _, state = scored(Signed, **options)
    profile, expected_profile = observer.profile(), by_hand.profile()
    assert profile is not None
    assert expected_profile is not None
    assert profile.undefined.sum() == 0
    assert (profile.histogram == expected_profile.histogram).all()
    for key, value in train(build(Signed, **options)).items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["GradDrop", "MGDA", "IMTL"])
def test_representation_gradients_are_followed_to_the_shared_layers(name: str) -> None:
    observer, trainer, state = scored(recorded(name), rep_grad=True)
    profile = observer.profile()
    assert profile is not None
    assert profile.steps == EPOCHS * BATCHES
    for S in EDGES[1:201:7]:
        assert list(profile.scores(float(S)).values()) == expected(trainer.model.cosines, float(S))
    plain = train(build(getattr(weightings, name), rep_grad=True))
    for key, value in plain.items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(("name", "rep_grad"), [("MGDA", False), ("PCGrad", False), ("IMTL", True)])
def test_each_task_may_have_its_own_input(name: str, rep_grad: bool) -> None:
    loader = {task: OneTask(index) for index, task in enumerate(TASKS)}
    options = {"multi_input": True, "rep_grad": rep_grad}
    observer, _, state = scored(getattr(weightings, name), loader=loader, **options)
    profile = observer.profile()
    assert profile is not None
    assert profile.steps == EPOCHS * BATCHES
    plain = train(build(getattr(weightings, name), **options), loader)
    for key, value in plain.items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", ["EW", "PCGrad", "GradOPS"])
def test_frozen_parameters_are_left_out(name: str) -> None:
    observer, trainer, _ = scored(recorded(name), encoder=PartlyFrozen)
    profile = observer.profile()
    assert profile is not None
    assert profile.layer_names == ("fc1", "fc2")
    assert profile.parameter_counts == (48, 40)
    assert list(profile.scores(-0.1).values()) == expected(trainer.model.cosines, -0.1)


@pytest.mark.parametrize("name", ["EW", "PCGrad"])
def test_a_layer_that_no_task_reaches_is_undefined(name: str) -> None:
    observer, _, _ = scored(getattr(weightings, name), encoder=WithIdleLayer)
    profile = observer.profile()
    assert profile is not None
    assert profile.scores(0.0)["idle"] == 0
    every = profile.steps * profile.pairs
    assert profile.undefined.sum(axis=0).tolist() == [0, 0, 0, every]


class EverySecond(weightings.EW):
    """Looks at the gradients in every second step only, as Nash-MTL can."""

    def backward(self, losses: Tensor, **kwargs: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls % 2:
            return super().backward(losses, **kwargs)
        gradients = self._get_grads(losses)
        self._backward_new_grads(torch.ones(len(losses)), grads=gradients)
        gradients.zero_()  # the probe must have counted before
        return None


def test_a_watched_step_without_gradients_is_missed_and_said() -> None:
    observer, _, _ = scored(EverySecond)
    profile = observer.profile()
    assert profile is not None
    # Own passes in step 1; step 2 is seen, so step 3 is watched in vain; 4 is seen, and so on.
    assert (profile.steps, observer.missed) == (5, 3)
    assert profile.provenance["missed_steps"] == 3
    assert profile.undefined.sum() == 0


def test_the_run_ends_after_the_steps_asked_for() -> None:
    seen: list[int] = []
    observer = ScoringObserver(3, on_step=seen.append)
    with observe(observer):
        trainer = build(weightings.EW)
        with pytest.raises(StopRun):
            train(trainer)
    assert seen == [1, 2, 3]
    profile = observer.profile()
    assert profile is not None
    assert profile.steps == 3


def test_only_the_steps_asked_for_are_scored() -> None:
    every, _, _ = scored(weightings.PCGrad)
    profile = every.profile()
    assert profile is not None
    for schedule, steps in (
        (Schedule(every=3), [0, 3, 6]),
        (Schedule(start=5), [5, 6, 7]),
        (Schedule(start=2, stop=6, every=2), [2, 4]),
    ):
        observer = ScoringObserver(schedule)
        with observe(observer), contextlib.suppress(StopRun):
            train(build(weightings.PCGrad))
        found = observer.profile()
        assert found is not None
        assert found.steps == len(steps)
        # Blocks of one step each: just those of the whole run.
        assert (found.counts == profile.counts[steps]).all()


def test_scoring_ends_when_the_choice_is_stable() -> None:
    observer = ScoringObserver(Schedule(until=UntilStable(-0.1, 1, 0.97)))
    with observe(observer):
        trainer = build(weightings.EW)
        with pytest.raises(StopRun):
            trainer.train(Batches(), Batches(), 200)
    profile = observer.profile()
    assert profile is not None
    assert profile.steps % 50 == 0
    assert 250 <= profile.steps < 800
    found = profile.provenance["stability"]
    assert found["reached"] is True
    assert found["agreement"] >= 0.97


def test_a_run_too_short_to_be_sure_says_so() -> None:
    observer = ScoringObserver(Schedule(until=UntilStable(-0.1)))
    with observe(observer):
        train(build(weightings.EW))
    profile = observer.profile()
    assert profile is not None
    assert profile.provenance["stability"]["reached"] is False


def test_more_layers_than_there_are_cannot_be_waited_for() -> None:
    observer = ScoringObserver(Schedule(until=UntilStable(-0.1, 4, 0.9)))
    with observe(observer), pytest.raises(UsageError, match="--k must be a whole number from 1 to"):
        build(weightings.EW)


def test_after_training_nothing_of_the_probe_is_left() -> None:
    observer, trainer, _ = scored(weightings.PCGrad)
    assert "backward" not in vars(trainer.model)
    assert "_compute_grad" not in vars(trainer.model)
    profile = observer.profile()
    assert profile is not None
    before = profile.steps
    train(trainer)
    again = observer.profile()
    assert again is not None
    assert again.steps == before


def test_without_a_step_there_is_no_profile() -> None:
    observer = ScoringObserver()
    assert observer.profile() is None
    with observe(observer):
        build(weightings.EW)
    assert observer.profile() is None


def test_the_profile_says_where_it_came_from() -> None:
    observer = ScoringObserver(dataset="toy")
    with observe(observer):
        train(build(weightings.PCGrad))
    profile = observer.profile()
    assert profile is not None
    where = profile.provenance
    assert profile.tasks == TASKS
    assert {key: where[key] for key in ("dataset", "weighting", "architecture", "encoder")} == {
        "dataset": "toy",
        "weighting": "PCGrad",
        "architecture": "HPS",
        "encoder": "Encoder",
    }
    assert set(where["versions"]) == {"libmtl-recon", "LibMTL", "torch", "torchvision"}
    assert where["date"].endswith("+00:00")
    assert type(profile).from_json(profile.to_json()).id == profile.id


def test_one_task_is_refused() -> None:
    with observe(ScoringObserver()), pytest.raises(ReconError, match="this run has 1"):
        build(weightings.EW, tasks=TASKS[:1])


@pytest.mark.parametrize("name", ["MoDo", "SDMGrad"])
def test_weightings_of_several_batches_a_step_are_refused(name: str) -> None:
    with observe(ScoringObserver()), pytest.raises(ReconError, match=f"{name} draws three batches"):
        build(type(name, (weightings.EW,), {}))


class Cross_stitch(HPS):  # noqa: N801  # LibMTL's own name, whose encoders are large
    """A network a task."""


def test_an_architecture_that_shares_no_layer_is_refused() -> None:
    with observe(ScoringObserver()), pytest.raises(ReconError, match="--arch Cross_stitch cannot"):
        build(weightings.EW, architecture=Cross_stitch)


def test_the_shared_experts_of_an_architecture_are_scored() -> None:
    options = {"architecture": MMoE, "arch_args": {"img_size": [6], "num_experts": [2]}}
    observer, _, state = scored(weightings.PCGrad, **options)
    profile = observer.profile()
    assert profile is not None
    names = [f"experts_shared.{i}.{layer}" for i in (0, 1) for layer in ("fc1", "bn1", "fc2")]
    assert list(profile.layer_names) == names
    assert profile.provenance["encoder"] == "MMoE"
    plain = train(build(weightings.PCGrad, **options))
    for key, value in plain.items():
        assert torch.equal(value, state[key]), key


class OfTheUser(AbsArchitecture):
    """Shares an encoder in a way of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.encoder = self.encoder_class()


def test_an_architecture_of_the_users_own_is_scored_if_it_shares_an_encoder() -> None:
    observer, _, _ = scored(weightings.EW, architecture=OfTheUser)
    profile = observer.profile()
    assert profile is not None
    assert profile.provenance["architecture"] == "OfTheUser"
    assert profile.layer_names == ("fc1", "bn1", "fc2")


@pytest.mark.parametrize("name", ["MGDA", "PCGrad", "GradOPS"])
def test_with_recon_the_layers_that_are_still_shared_are_scored(name: str, tmp_path: Path) -> None:
    source = tmp_path / "layers.json"
    source.write_text('{"fc1": 2, "bn1": 1, "fc2": 0}')
    recon = {"recon_k": 1, "recon_s": -0.1, "recon_layers": str(source)}
    options = {"architecture": Recon, "arch_args": recon}
    observer, _, state = scored(getattr(weightings, name), **options)
    profile = observer.profile()
    assert profile is not None
    assert profile.layer_names == ("bn1", "fc2")
    assert profile.parameter_counts == (16, 40)
    assert [layer.type for layer in profile.architecture] == ["BatchNorm1d", "Linear"]
    plain = train(build(getattr(weightings, name), **options))
    for key, value in plain.items():
        assert torch.equal(value, state[key]), key


class Exploding(Observer):
    def built(self, trainer: Any) -> None:
        with torch.no_grad():
            trainer.model.decoders["right"].weight[0, 0] = float("nan")


class Steep(Encoder):
    """Finite losses, infinite gradients: the root of 0."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (self.fc1.weight.sum() * 0).sqrt()


def test_gradients_that_are_not_finite_stop_the_run_with_task_and_layer() -> None:
    observer = ScoringObserver(4)
    with observe(observer):
        trainer = build(weightings.EW, encoder=Steep)
        with pytest.raises(ReconError, match="'left', 'right', 'middle' in layer 'fc1' was not"):
            train(trainer)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_task() -> None:
    observer = ScoringObserver(4)
    with observe(observer, Exploding()):
        trainer = build(weightings.EW)
        with pytest.raises(ReconError, match="loss of task 'right' was not finite"):
            train(trainer)
