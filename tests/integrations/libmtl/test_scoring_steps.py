"""Which steps of a training are scored, when that ends, and what stops it."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import contextlib
from typing import Any

import LibMTL.weighting as weightings
import pytest
import torch
from scoring_problem import Batches, Encoder, build, scored, train
from torch import Tensor

from libmtl_recon import ReconError, StopRun, UsageError
from libmtl_recon.conflicts.schedule import Schedule, UntilStable
from libmtl_recon.integrations.libmtl.hooks import TrainerHook, trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook


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
    hook, _, _ = scored(EverySecond)
    profile = hook.profile()
    assert profile is not None
    # Own passes in step 1; step 2 is seen, so step 3 is watched in vain; 4 is seen, and so on.
    assert (profile.steps, hook.missed) == (5, 3)
    assert profile.provenance["missed_steps"] == 3
    assert profile.undefined.sum() == 0


def test_the_run_ends_after_the_steps_asked_for() -> None:
    seen: list[int] = []
    hook = ScoringHook(3, on_step=seen.append)
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        with pytest.raises(StopRun):
            train(trainer)
    assert seen == [1, 2, 3]
    profile = hook.profile()
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
        hook = ScoringHook(schedule)
        with trainer_hooks(hook), contextlib.suppress(StopRun):
            train(build(weightings.PCGrad))
        found = hook.profile()
        assert found is not None
        assert found.steps == len(steps)
        # Blocks of one step each: just those of the whole run.
        assert (found.counts == profile.counts[steps]).all()


def test_scoring_ends_when_the_choice_is_stable() -> None:
    hook = ScoringHook(Schedule(until=UntilStable(-0.1, 1, 0.97)))
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        with pytest.raises(StopRun):
            trainer.train(Batches(), Batches(), 200)
    profile = hook.profile()
    assert profile is not None
    assert profile.steps % 50 == 0
    assert 250 <= profile.steps < 800
    found = profile.provenance["stability"]
    assert found["reached"] is True
    assert found["agreement"] >= 0.97


def test_a_run_too_short_to_be_sure_says_so() -> None:
    hook = ScoringHook(Schedule(until=UntilStable(-0.1)))
    with trainer_hooks(hook):
        train(build(weightings.EW))
    profile = hook.profile()
    assert profile is not None
    assert profile.provenance["stability"]["reached"] is False


def test_more_layers_than_there_are_cannot_be_waited_for() -> None:
    hook = ScoringHook(Schedule(until=UntilStable(-0.1, 4, 0.9)))
    with (
        trainer_hooks(hook),
        pytest.raises(UsageError, match="--k must be a whole number from 1 to"),
    ):
        build(weightings.EW)


def test_after_training_nothing_of_the_probe_is_left() -> None:
    hook, trainer, _ = scored(weightings.PCGrad)
    assert "backward" not in vars(trainer.model)
    assert "_compute_grad" not in vars(trainer.model)
    profile = hook.profile()
    assert profile is not None
    before = profile.steps
    train(trainer)
    again = hook.profile()
    assert again is not None
    assert again.steps == before


def test_without_a_step_there_is_no_profile() -> None:
    hook = ScoringHook()
    assert hook.profile() is None
    with trainer_hooks(hook):
        build(weightings.EW)
    assert hook.profile() is None


class Exploding(TrainerHook):
    def built(self, trainer: Any) -> None:
        with torch.no_grad():
            trainer.model.decoders["right"].weight[0, 0] = float("nan")


class Steep(Encoder):
    """Finite losses, infinite gradients: the root of 0."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (self.fc1.weight.sum() * 0).sqrt()


def test_gradients_that_are_not_finite_stop_the_run_with_task_and_layer() -> None:
    hook = ScoringHook(4)
    with trainer_hooks(hook):
        trainer = build(weightings.EW, encoder=Steep)
        with pytest.raises(ReconError, match="'left', 'right', 'middle' in layer 'fc1' was not"):
            train(trainer)


def test_a_loss_that_is_not_finite_stops_the_run_with_its_task() -> None:
    hook = ScoringHook(4)
    with trainer_hooks(hook, Exploding()):
        trainer = build(weightings.EW)
        with pytest.raises(ReconError, match="loss of task 'right' was not finite"):
            train(trainer)
