"""Scoring over several calls of Trainer.train, and of one Trainer among several."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
from collections.abc import Callable
from typing import Any

import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL import Trainer
from scoring_problem import BATCHES, EPOCHS, Batches, build, recorded, scored, train

from libmtl_recon import ReconError, StopRun
from libmtl_recon.conflicts.grid import EDGES
from libmtl_recon.conflicts.profile import ConflictProfile
from libmtl_recon.conflicts.schedule import Schedule, UntilStable
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook


def once(trainer: Any) -> None:
    trainer.train(Batches(), Batches(), 1)


def profile_of(hook: ScoringHook) -> ConflictProfile:
    profile = hook.profile()
    assert profile is not None
    return profile


@pytest.mark.parametrize("name", ["EW", "PCGrad", "RotoGrad"])
def test_an_outer_loop_is_scored_in_every_step(name: str) -> None:
    whole, _, _ = scored(recorded(name))
    hook = ScoringHook()
    with trainer_hooks(hook):
        by_call = build(recorded(name))
        for _ in range(EPOCHS):
            once(by_call)
            by_call.test(Batches())
    profile = profile_of(hook)
    assert profile.steps == EPOCHS * BATCHES
    assert (profile.counts == profile_of(whole).counts).all()
    for S in EDGES[1:201:20]:
        assert list(profile.scores(float(S)).values()) == [
            sum(c < S for step in by_call.model.cosines for c in step[layer]) for layer in range(3)
        ]
    assert "backward" not in vars(by_call.model)


def test_a_run_ends_in_the_call_in_which_it_has_its_steps() -> None:
    hook = ScoringHook(BATCHES + 1)
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        once(trainer)
        with pytest.raises(StopRun):
            once(trainer)
        with pytest.raises(StopRun):  # if the script catches everything and goes on
            once(trainer)
    assert profile_of(hook).steps == BATCHES + 1


def test_a_schedule_counts_the_steps_of_all_calls() -> None:
    whole, _, _ = scored(weightings.PCGrad)
    hook = ScoringHook(Schedule(start=3, every=2, stop=7))
    with trainer_hooks(hook):
        trainer = build(weightings.PCGrad)
        once(trainer)
        with pytest.raises(StopRun):
            once(trainer)
    assert (profile_of(hook).counts == profile_of(whole).counts[[3, 5]]).all()


def test_the_choice_becomes_stable_over_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoring_problem.Trainer", OwnLoop)
    hook = ScoringHook(Schedule(until=UntilStable(-0.1, 1, 0.97)))
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        with pytest.raises(StopRun):
            trainer.train(Batches(), Batches(), 200)
    profile = profile_of(hook)
    assert 250 <= profile.steps < 800
    assert profile.provenance["stability"]["reached"] is True


def test_a_call_that_ended_by_an_exception_is_not_counted_twice_in_the_next() -> None:
    class Ending(Batches):
        def __iter__(self) -> Any:
            for number, batch in enumerate(super().__iter__()):
                if number == 2:
                    raise InterruptedError
                yield batch

        def __len__(self) -> int:
            return 3

    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        with pytest.raises(InterruptedError):
            trainer.train(Ending(), Batches(), 1)
        once(trainer)
    assert profile_of(hook).steps == hook.trained_steps == 2 + BATCHES


class OwnLoop(Trainer):  # type: ignore[misc]
    """Calls LibMTL's ``train`` once an epoch, from its own."""

    def train(self, *data: Any) -> None:
        for _ in range(data[-1]):
            super().train(*data[:-1], 1)


def test_a_trainer_with_an_outer_loop_in_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scoring_problem.Trainer", OwnLoop)
    hook, _, _ = scored(weightings.EW)
    assert profile_of(hook).steps == EPOCHS * BATCHES


def folds(hook: ScoringHook, lengths: tuple[int, ...] = (1, 2, 3)) -> None:
    with trainer_hooks(hook):
        for epochs in lengths:
            trainer = build(weightings.EW)
            trainer.train(Batches(), Batches(), epochs)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_of_several_trainers_is_scored(number: int) -> None:
    said: list[str] = []
    hook = ScoringHook(trainer=number, on_other=lambda: said.append("other"))
    folds(hook)
    profile = profile_of(hook)
    assert profile.steps == number * BATCHES
    assert profile.provenance.get("trainer", 1) == number
    assert said == ["other"]
    assert (hook.trainers, hook.calls) == (3, 3)


def test_a_trainer_that_is_not_built_is_not_scored() -> None:
    hook = ScoringHook(trainer=4)
    folds(hook)
    assert (hook.attached, hook.profile(), hook.trainers) == (False, None, 3)


def test_a_model_handed_to_a_second_trainer_counts_with_the_first() -> None:
    said: list[str] = []
    hook = ScoringHook(on_other=lambda: said.append("other"))
    with trainer_hooks(hook):
        first = build(weightings.EW)
        once(first)
        second = build(weightings.EW)
        second.model = first.model
        second._prepare_optimizer({"optim": "sgd", "lr": 0.01}, None)
        once(second)
    assert profile_of(hook).steps == 2 * BATCHES
    assert said == []


def test_going_back_to_a_copy_of_the_best_epoch_counts_on() -> None:
    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        once(trainer)
        best = copy.deepcopy(trainer.model)
        once(trainer)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        worse, trainer.model = trainer.model, best
        trainer._prepare_optimizer({"optim": "sgd", "lr": 0.01}, None)
        once(trainer)
    assert profile_of(hook).steps == 3 * BATCHES
    assert all((p == q).all() for p, q in zip(worse.parameters(), before, strict=True))


def parameters_of_folds(make: Callable[[], Any], *hooks: ScoringHook) -> list[Any]:
    """Train a copy of a Trainer for each fold; the parameters of all copies."""
    with trainer_hooks(*hooks):
        untrained = make()
        folds = [copy.deepcopy(untrained) for _ in range(2)]
        for fold in folds:
            once(fold)
    return [p.detach().clone() for fold in folds for p in fold.model.parameters()]


@pytest.mark.parametrize("name", ["EW", "PCGrad"])
@pytest.mark.parametrize("number", [1, 2])
def test_copies_of_a_trainer_train_for_themselves(name: str, number: int) -> None:
    def make() -> Any:  # Adam would make steps of the rounding of gradients that are zero
        return build(getattr(weightings, name), optim_param={"optim": "sgd", "lr": 0.1})

    said: list[str] = []
    hook = ScoringHook(trainer=number, on_other=lambda: said.append("other"))
    found = parameters_of_folds(make, hook)
    for one, other in zip(found, parameters_of_folds(make), strict=True):
        torch.testing.assert_close(one, other)
    assert hook.trainers == 3
    assert said == ["other"]
    if number == 1:  # which none of its own steps ever trains
        assert hook.profile() is None
    else:
        alone = ScoringHook()
        with trainer_hooks(alone):
            once(make())
        assert (profile_of(hook).counts == profile_of(alone).counts).all()


def test_a_copy_from_before_the_training_is_scored_in_its_own_steps() -> None:
    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        untrained = copy.deepcopy(trainer.model)
        once(trainer)
        trainer.model = untrained
        trainer._prepare_optimizer({"optim": "sgd", "lr": 0.01}, None)
        once(trainer)
    profile = profile_of(hook)
    assert profile.steps == 2 * BATCHES
    assert profile.undefined.sum() == 0


def freeze(trainer: Any, frozen: bool) -> None:
    for parameter in trainer.model.encoder.fc1.parameters():
        parameter.requires_grad_(not frozen)


def test_a_layer_frozen_in_the_warm_up_is_undefined_in_its_steps() -> None:
    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = build(weightings.EW)
        freeze(trainer, True)
        once(trainer)
        freeze(trainer, False)
        once(trainer)
    profile = profile_of(hook)
    assert profile.steps == 2 * BATCHES
    assert profile.undefined.sum(axis=0).tolist() == [BATCHES * profile.pairs, 0, 0]


def half_frozen() -> Any:
    from scoring_problem import Encoder

    class Frozen(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.fc1.requires_grad_(False)

    return build(weightings.EW, encoder=Frozen)


def unfreeze(trainer: Any) -> None:
    freeze(trainer, False)


def other_tasks(trainer: Any) -> None:
    trainer.model = build(weightings.EW, tasks=("left", "right")).model


@pytest.mark.parametrize(
    ("make", "change", "says"),
    [
        (half_frozen, unfreeze, "Layer 'fc1' began to train only after scoring had begun"),
        (lambda: build(weightings.EW), other_tasks, "has another network or other tasks now"),
    ],
)
def test_what_cannot_be_counted_together_is_refused(
    make: Callable[[], Any], change: Callable[[Any], None], says: str
) -> None:
    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = make()
        once(trainer)
        change(trainer)
        with pytest.raises(ReconError, match=says):
            once(trainer)
    assert profile_of(hook).steps == BATCHES


def test_a_first_trainer_of_one_task_says_how_to_score_a_later_one() -> None:
    with trainer_hooks(ScoringHook()), pytest.raises(ReconError, match="--score-trainer N chooses"):
        train(build(weightings.EW, tasks=("left",)))
    hook = ScoringHook(trainer=2)
    with trainer_hooks(hook):
        once(build(weightings.EW, tasks=("left",)))
        once(build(weightings.EW))
    assert profile_of(hook).steps == BATCHES
