"""A loss that is a constant in some step has no gradient there: in training and in scoring."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import micro_batches
from micro_batches import Runs
from trainer_arguments import classifications

# isort: split
import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL.loss import AbsLoss
from torch import Tensor, nn

from libmtl_recon import ReconError
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.integrations.libmtl.step.functions import trainable

# What the others do with a gradient of zero is a question of their own.
SOLVERS = ("GradNorm", "MGDA", "IMTL", "CAGrad", *micro_batches.ALL_REACHED)
SCORED = [
    name
    for name in weightings.__all__
    if not name.startswith("Abs") and name not in (*SOLVERS, *micro_batches.SEVERAL_BATCHES)
]
TASKS = ("t0", "t1", "t2")


pytestmark = pytest.mark.usefixtures("float64_on_the_cpu")


class SometimesConstant(AbsLoss):  # type: ignore[misc]
    """As a loss over no valid pixel: in the second step it is 0.5, in one of three ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.calls = kind, 0

    def compute_loss(self, prediction: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        if self.calls % 3 != 2:
            return nn.functional.cross_entropy(prediction, label)
        if self.kind == "of zeros":
            return prediction.sum() * 0 + 0.5
        return torch.tensor(0.5, requires_grad=self.kind == "leaf")


def make(name: str, kind: str, constant: tuple[str, ...], **changes: Any) -> Runs:
    tasks = classifications(TASKS)
    for task in constant:
        tasks[task]["loss_fn"] = SometimesConstant(kind)
    return Runs(name, task_dict=tasks, **changes)


def train(runs: Runs, steps: int = 3) -> None:
    for _ in range(steps):
        runs.model.zero_grad()
        runs.backward()


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("kind", ["leaf", "no graph", "of zeros"])
@pytest.mark.parametrize("constant", [("t1",), TASKS])
@pytest.mark.parametrize("name", ["EW", "UW", "GradOPS", "PCGrad", "RotoGrad"])
def test_the_others_train_as_without_that_task(
    name: str, constant: tuple[str, ...], kind: str, scored: bool
) -> None:
    hook = ScoringHook(None)
    with trainer_hooks(hook) if scored else nullcontext():
        runs = make(name, kind, constant)
    train(runs, steps=2)
    encoder = runs.model.encoder.one.weight.grad
    for task in TASKS:
        gradient = runs.model.decoders[task].weight.grad
        moved = gradient is not None and bool(gradient.any())
        assert moved is (task not in constant)
    assert (encoder is not None and bool(encoder.any())) is (len(constant) < 3)
    if name == "EW" and len(constant) < 3:
        other = make(name, kind, constant)
        train(other, steps=1)
        losses = other.losses(1)
        wanted = torch.autograd.grad(losses[0] + losses[2], other.model.encoder.one.weight)[0]
        torch.testing.assert_close(encoder, wanted, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("kind", ["leaf", "no graph", "of zeros"])
@pytest.mark.parametrize("constant", [("t0",), ("t2",), TASKS])
@pytest.mark.parametrize("name", ["EW", "GradOPS", "RotoGrad", "GradDrop"])
def test_such_a_task_is_undefined_in_that_step(
    name: str, constant: tuple[str, ...], kind: str, multi_input: bool
) -> None:
    hook = ScoringHook(None)
    with trainer_hooks(hook):
        runs = make(name, kind, constant, rep_grad=name == "GradDrop", multi_input=multi_input)
    train(runs)
    profile = hook.profile()
    assert profile is not None
    assert profile.steps == 3
    names = [layer.name for layer in profile.architecture]
    undefined = dict(zip(names, profile.undefined.sum(axis=0).tolist(), strict=True))
    pairs = 3 if len(constant) == 3 else 2  # of three, those with the task
    assert (undefined["one"], undefined["two"]) == (pairs, pairs)
    assert profile.counts.sum(axis=-1).sum(axis=0)[names.index("one")] == 9 - pairs


@pytest.mark.parametrize("name", SCORED)
def test_scoring_says_the_same_of_every_weighting(name: str) -> None:
    hook = ScoringHook(None)
    with trainer_hooks(hook):
        runs = make(name, "leaf", ("t1",), rep_grad=name == "GradDrop")
    train(runs)
    profile = hook.profile()
    assert profile is not None
    names = [layer.name for layer in profile.architecture]
    assert profile.undefined.sum(axis=0)[names.index("two")] == 2


@pytest.mark.parametrize("name", ["GradOPS", "PCGrad", "MGDA"])
def test_losses_of_a_model_without_a_graph_are_refused(name: str) -> None:
    runs = make(name, "leaf", ())
    with torch.no_grad():
        losses = runs.losses(0)
    with pytest.raises(ReconError, match="None of the losses depends on a trainable parameter"):
        runs.model.backward(losses, **runs.trainer.kwargs["weight_args"])


def test_a_loss_is_connected_to_any_part_of_its_prediction() -> None:
    part, constant = torch.ones(2, requires_grad=True), torch.tensor(2.0)
    for prediction in (part, {"a": constant, "b": [part]}, (constant, (part,))):
        found = trainable(constant, prediction)
        assert found.requires_grad
        assert found.item() == 2.0
    for prediction in (constant, {"a": constant}, [], "words", None):
        assert trainable(constant, prediction) is constant
    assert not constant.requires_grad
    loss = part.sum()
    assert trainable(loss, part) is loss
    with torch.no_grad():
        assert trainable(constant, part) is constant


@pytest.mark.parametrize("multi_input", [False, True])
@pytest.mark.parametrize("name", ["MGDA", "IMTL", "GradNorm"])
def test_decoders_learn_behind_a_frozen_encoder_with_rep_grad(name: str, multi_input: bool) -> None:
    runs = Runs(name, rep_grad=True, multi_input=multi_input)
    runs.model.encoder.requires_grad_(False)
    runs.model.zero_grad()
    runs.backward()
    plain = Runs("EW", multi_input=multi_input)
    plain.backward()
    found, wanted = runs.gradients(), plain.gradients()
    assert not any(key.startswith("encoder.") for key in found)
    decoders = [key for key in wanted if key.startswith("decoders.")]
    assert len(decoders) == 6
    for key in decoders:
        torch.testing.assert_close(found[key], wanted[key])
