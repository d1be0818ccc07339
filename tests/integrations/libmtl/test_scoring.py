"""Scoring watches a training run: it counts what Definition 3 counts, and changes nothing."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
from collections.abc import Iterator
from typing import Any

import LibMTL.weighting as weightings
import numpy as np
import pytest
import torch
from scoring_problem import (
    BATCHES,
    EPOCHS,
    TASKS,
    Batches,
    OneTask,
    Recorded,
    build,
    expected,
    recorded,
    scored,
    train,
)
from torch import Tensor

from libmtl_recon.conflicts.grid import EDGES

EVERY = ["EW", "UW", "DWA", "GLS", "RLW", "GradNorm", "MGDA", "PCGrad", "GradVac", "CAGrad"]
EVERY += ["IMTL", "GradOPS", "RotoGrad"]

BY_GRAMIANS = ("CAGrad", "GradOPS", "GradVac", "IMTL", "MGDA", "PCGrad")


@pytest.mark.parametrize("name", EVERY)
def test_counts_are_definition_3_and_training_is_unchanged(name: str) -> None:
    hook, trainer, state = scored(recorded(name))
    profile = hook.profile()
    assert profile is not None
    assert profile.steps + hook.missed == EPOCHS * BATCHES
    assert hook.missed == 0
    assert profile.layer_names == ("fc1", "bn1", "fc2")
    for S in EDGES[1:201:3]:
        assert list(profile.scores(float(S)).values()) == expected(trainer.model.cosines, float(S))
    assert sum(profile.scores(0.0).values()) > 0
    # To the last bit what the same run gives when nobody looks.
    weighting = getattr(weightings, name)
    if name in BY_GRAMIANS:  # not by the rows that one with cosines of its own was given
        _, _, state = scored(weighting)
    plain = train(build(weighting))
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
def test_weighted_losses_are_differentiated_once_per_task(
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
    hook, _, state = scored(getattr(weightings, name), loader=loader, **options)
    profile, expected_profile = hook.profile(), by_hand.profile()
    assert profile is not None
    assert expected_profile is not None
    assert hook.missed == 0
    assert (profile.histogram == expected_profile.histogram).all()
    for key, value in plain.items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-11)
    # RLW's weights and those of a softmax are all above 0. Each step has one pass per task; those
    # beside them are of the T-vector of losses, in which no network is.
    assert max(passes) == 1


class Signed(weightings.EW):  # type: ignore[misc]
    """A weighting that gives one task the weight 0 and one a negative weight."""

    def backward(self, losses: Tensor, **_: Any) -> Any:
        (losses * torch.tensor([1.0, 0.0, -0.5])).sum().backward()
        return np.array([1.0, 0.0, -0.5])


@pytest.mark.usefixtures("_float64")
def test_weights_that_are_not_positive_hide_no_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signed, "__module__", "libmtl_recon.signed")
    monkeypatch.setattr(Signed.backward, "__module__", "libmtl_recon.signed")
    options: dict[str, Any] = {"optim_param": {"optim": "sgd", "lr": 0.1}}
    by_hand, _, _ = scored(type("Signed", (Recorded, Signed), {}), **options)
    hook, _, state = scored(Signed, **options)
    profile, expected_profile = hook.profile(), by_hand.profile()
    assert profile is not None
    assert expected_profile is not None
    assert profile.undefined.sum() == 0
    assert (profile.histogram == expected_profile.histogram).all()
    for key, value in train(build(Signed, **options)).items():
        torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["GradDrop", "MGDA", "IMTL"])
def test_representation_gradients_are_followed_to_the_shared_layers(name: str) -> None:
    hook, trainer, state = scored(recorded(name), rep_grad=True)
    profile = hook.profile()
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
    hook, _, state = scored(getattr(weightings, name), loader=loader, **options)
    profile = hook.profile()
    assert profile is not None
    assert profile.steps == EPOCHS * BATCHES
    plain = train(build(getattr(weightings, name), **options), loader)
    for key, value in plain.items():
        assert torch.equal(value, state[key]), key
