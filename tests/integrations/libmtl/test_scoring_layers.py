"""Which layers of which networks are scored, and what the profile says of its origin."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
from pathlib import Path
from typing import Any

import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL.architecture import HPS, AbsArchitecture, MMoE
from scoring_problem import TASKS, Encoder, build, expected, recorded, scored, train
from torch import nn

from libmtl_recon import ReconError
from libmtl_recon.integrations.libmtl.architectures.recon import Recon
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook


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


@pytest.mark.parametrize("name", ["EW", "PCGrad", "GradOPS"])
def test_frozen_parameters_are_left_out(name: str) -> None:
    hook, trainer, _ = scored(recorded(name), encoder=PartlyFrozen)
    profile = hook.profile()
    assert profile is not None
    assert profile.layer_names == ("fc1", "fc2")
    assert profile.parameter_counts == (48, 40)
    assert list(profile.scores(-0.1).values()) == expected(trainer.model.cosines, -0.1)


@pytest.mark.parametrize("name", ["EW", "PCGrad"])
def test_a_layer_that_no_task_reaches_is_undefined(name: str) -> None:
    hook, _, _ = scored(getattr(weightings, name), encoder=WithIdleLayer)
    profile = hook.profile()
    assert profile is not None
    assert profile.scores(0.0)["idle"] == 0
    every = profile.steps * profile.pairs
    assert profile.undefined.sum(axis=0).tolist() == [0, 0, 0, every]


def test_the_profile_says_where_it_came_from() -> None:
    hook = ScoringHook(dataset="toy")
    with trainer_hooks(hook):
        train(build(weightings.PCGrad))
    profile = hook.profile()
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
    with trainer_hooks(ScoringHook()), pytest.raises(ReconError, match="this run has 1"):
        build(weightings.EW, tasks=TASKS[:1])


@pytest.mark.parametrize("name", ["MoDo", "SDMGrad"])
def test_weightings_of_several_batches_a_step_are_refused(name: str) -> None:
    with (
        trainer_hooks(ScoringHook()),
        pytest.raises(ReconError, match=f"{name} draws three batches"),
    ):
        build(type(name, (weightings.EW,), {}))


class Cross_stitch(HPS):  # noqa: N801  # LibMTL's own name, whose encoders are large
    """A network a task."""


def test_an_architecture_that_shares_no_layer_is_refused() -> None:
    with (
        trainer_hooks(ScoringHook()),
        pytest.raises(ReconError, match="--arch Cross_stitch cannot"),
    ):
        build(weightings.EW, architecture=Cross_stitch)


def test_the_shared_experts_of_an_architecture_are_scored() -> None:
    options = {"architecture": MMoE, "arch_args": {"img_size": [6], "num_experts": [2]}}
    hook, _, state = scored(weightings.PCGrad, **options)
    profile = hook.profile()
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
    hook, _, _ = scored(weightings.EW, architecture=OfTheUser)
    profile = hook.profile()
    assert profile is not None
    assert profile.provenance["architecture"] == "OfTheUser"
    assert profile.layer_names == ("fc1", "bn1", "fc2")


@pytest.mark.parametrize("name", ["MGDA", "PCGrad", "GradOPS"])
def test_with_recon_the_layers_that_are_still_shared_are_scored(name: str, tmp_path: Path) -> None:
    source = tmp_path / "layers.json"
    source.write_text('{"fc1": 2, "bn1": 1, "fc2": 0}')
    recon = {"recon_k": 1, "recon_s": -0.1, "recon_layers": str(source)}
    options = {"architecture": Recon, "arch_args": recon}
    hook, _, state = scored(getattr(weightings, name), **options)
    profile = hook.profile()
    assert profile is not None
    assert profile.layer_names == ("bn1", "fc2")
    assert profile.parameter_counts == (16, 40)
    assert [layer.type for layer in profile.architecture] == ["BatchNorm1d", "Linear"]
    plain = train(build(getattr(weightings, name), **options))
    for key, value in plain.items():
        assert torch.equal(value, state[key]), key
