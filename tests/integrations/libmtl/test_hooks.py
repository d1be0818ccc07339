"""Hooks see what LibMTL's Trainer does, and leave it as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_problem import batches, make_trainer
from torch import nn

# isort: split
from LibMTL import Trainer
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric

from libmtl_recon import Measurement, ReconError, SingleTask, TrainerHook, UsageError
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks


class Notes(TrainerHook):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def built(self, trainer: Any) -> None:
        self.events.append(("built", sum(p.numel() for p in trainer.model.parameters())))

    def measured(self, trainer: Any, measurement: Measurement) -> None:
        self.events.append(measurement)

    def trained(self, trainer: Any) -> None:
        self.events.append("trained")


def test_sees_every_pass_and_its_numbers() -> None:
    notes = Notes()
    with trainer_hooks(notes):
        trainer = make_trainer("EW")
        trainer.train(batches(2), batches(2, 2), epochs=2, val_dataloaders=batches(2, 3))
    assert notes.events[0][0] == "built"
    assert notes.events[-1] == "trained"
    passes = notes.events[1:-1]
    assert [(m.epoch, m.mode) for m in passes] == [
        *((0, "train"), (0, "val"), (0, "test"), (1, "train"), (1, "val"), (1, "test"))
    ]
    for measurement in passes:
        assert set(measurement.metrics) == set(measurement.losses) == {"t0", "t1"}
        assert 0 <= measurement.metrics["t0"]["Acc"] <= 1
    last = passes[-1]
    correct = 0
    trainer.model.eval()
    for x, labels in batches(2, 2):
        correct += (trainer.model(x)["t1"].argmax(1) == labels["t1"]).sum().item()
    assert last.metrics["t1"]["Acc"] == pytest.approx(correct / 32)


def test_an_evaluation_outside_of_training_has_no_epoch() -> None:
    notes = Notes()
    with trainer_hooks(notes):
        trainer = make_trainer("EW")
        trainer.train(batches(2), batches(2), epochs=1)
        trainer.test(batches(2))
    assert (notes.events[-1].epoch, notes.events[-1].mode) == (None, "test")
    assert notes.events[-1].metrics == notes.events[-3].metrics, "the same data, the same network"


class TwoScores(AccMetric):
    def score_fun(self) -> list[float]:
        return [*super().score_fun(), 0.5]


def unnamed_score() -> Any:
    task = {"metrics": ["Acc"], "metrics_fn": TwoScores(), "loss_fn": CELoss(), "weight": [1]}
    return make_trainer("EW", tasks=1, task_dict={"t0": task})


def test_a_score_without_a_name_is_told_to_who_asks_for_scores() -> None:
    with (
        trainer_hooks(Notes()),
        pytest.raises(ReconError, match=r"t0.*1 names \(Acc\) for 2 scores"),
    ):
        unnamed_score().train(batches(1), batches(1), epochs=1)


def test_a_score_without_a_name_is_no_matter_to_others() -> None:
    with trainer_hooks(TrainerHook()):
        trainer = unnamed_score()
        trainer.train(batches(1), batches(1), epochs=1)
    assert trainer.meter.best_result["epoch"] == 0


def test_training_is_the_same_without_and_with_hooks() -> None:
    ends = []
    for hooks in ((), (Notes(),)):
        with trainer_hooks(*hooks):
            trainer = make_trainer("PCGrad")
            trainer.train(batches(2), batches(2), epochs=1)
        ends.append(torch.cat([p.flatten() for p in trainer.model.parameters()]))
    assert torch.equal(*ends)


def test_nobody_is_told_after_the_block() -> None:
    notes = Notes()
    with trainer_hooks(notes):
        pass
    make_trainer("EW")
    assert notes.events == []


class OwnTrainer(Trainer):
    """As users write it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.mine = True


@pytest.mark.parametrize("trainer_class", [Trainer, OwnTrainer])
@pytest.mark.parametrize("container", [dict, nn.ModuleDict])
@pytest.mark.parametrize("by_position", [False, True])
def test_one_task_alone(trainer_class: type, container: type, by_position: bool) -> None:
    given: dict[str, Any] = {}

    def keep(**kwargs: Any) -> Any:
        kwargs["decoders"] = container(kwargs["decoders"].items())
        given.update(kwargs)
        names = list(kwargs) if by_position else []
        ordered = [kwargs.pop(name) for name in names if not name.endswith("_args")]
        return trainer_class(*ordered, **kwargs)

    with trainer_hooks(SingleTask("t1")):
        trainer = make_trainer("EW", tasks=3, trainer_class=keep)
    assert trainer.task_name == ["t1"]
    assert list(trainer.model.decoders) == ["t1"]
    # A plain dict would not be trained by LibMTL; it is taken into a module.
    assert type(trainer.model.decoders) is nn.ModuleDict
    assert list(given["task_dict"]) == list(given["decoders"]) == ["t0", "t1", "t2"]
    trainer.train(batches(3), batches(3), epochs=1)


def test_a_task_that_there_is_not_is_named() -> None:
    with pytest.raises(UsageError, match=r"'t9'.*t0, t1"), trainer_hooks(SingleTask("t9")):
        make_trainer("EW")
