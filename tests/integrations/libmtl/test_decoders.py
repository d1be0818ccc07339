"""Tasks' names and decoders, looked at before LibMTL builds anything."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import re
from typing import Any

import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL import Trainer
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import Tensor, nn

from libmtl_recon import RotoGrad, UsageError, split_layers
from libmtl_recon.integrations.libmtl.features import detect


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.two(torch.tanh(self.one(x))))


class Custom(nn.Module):
    """Decoders by other names than the tasks'."""

    def __init__(self, tasks: list[str]) -> None:
        super().__init__()
        self.tasks, self.heads = tasks, nn.ModuleList([nn.Linear(6, 2) for _ in tasks])

    def __getitem__(self, task: str) -> nn.Module:
        return self.heads[self.tasks.index(task)]


def build(tasks: list[Any], decoders: Any, arch: str = "HPS") -> Trainer:
    task = {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(), "weight": [1]}
    named = detect(LibMTL).by_name
    arch_args = {"recon_k": 1, "recon_s": 0.0, "recon_layers": "one"}
    return Trainer(
        task_dict={name: dict(task) for name in tasks},
        weighting="EW" if named else weightings.EW,
        architecture=arch if named else vars(architectures)[arch],
        encoder_class=Encoder,
        decoders=decoders,
        rep_grad=False,
        multi_input=False,
        optim_param={"optim": "sgd", "lr": 0.1},
        scheduler_param=None,
        weight_args={},
        arch_args=arch_args if arch == "Recon" else {},
    )


def plain(tasks: list[Any]) -> dict[Any, nn.Module]:
    return {task: nn.Linear(6, 2) for task in tasks}


def batch(tasks: list[str]) -> list[Any]:
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    return [(x, {task: (x[:, 0] > 0).long() for task in tasks})]


def test_a_plain_dict_of_decoders_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = ["a", "b"]
    given = plain(tasks)
    before = {task: given[task].weight.detach().clone() for task in tasks}
    trainer = build(tasks, given)
    assert "plain dict, which LibMTL would not have trained" in capsys.readouterr().out
    trainer.train(batch(tasks), batch(tasks), 1)
    for task in tasks:
        assert trainer.model.decoders[task] is given[task]
        assert not torch.equal(given[task].weight, before[task])


@pytest.mark.parametrize("arch", ["HPS", "Recon"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["v1.0", "b"], r"without a dot.*\(got 'v1\.0'\).*to 'v1_0'"),
        (["a", "forward"], r"attributes of nn\.ModuleDict \(got 'forward'\).*'forward_task'"),
        (["a", "training"], r"\(got 'training'\)"),
        (["a", "keys"], r"\(got 'keys'\)"),
        (["", "b"], r"non-empty.*\(got ''\)"),
        ([0, 1], r"strings.*\(got 0\)"),
        ([], "at least one task"),
    ],
)
def test_names_that_no_module_can_have_are_refused(names: list[Any], said: str, arch: str) -> None:
    with pytest.raises(UsageError, match=f"task_dict must .*{said}"):
        build(names, plain(names), arch)


def test_a_number_may_be_a_name_as_a_text() -> None:
    trainer = build(["0", "1"], nn.ModuleDict(plain(["0", "1"])), "Recon")
    assert "encoder.one.tasks.1.weight" in trainer.model.state_dict()


@pytest.mark.parametrize(
    ("decoders", "said"),
    [
        (plain(["a"]), "there is none for b"),
        (nn.ModuleDict(plain(["a"])), "there is none for b"),
        ({"a": nn.Linear(6, 2), "b": torch.tanh}, "must be modules.*Use an nn.Module for b"),
        ([nn.Linear(6, 2)], "must be an nn.ModuleDict"),
    ],
)
def test_decoders_that_are_none_are_refused(decoders: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"decoders must .*{said}|decoders {said}"):
        build(["a", "b"], decoders)


def test_a_scripts_own_container_names_its_tasks_as_it_likes() -> None:
    tasks = ["v1.0", "forward"]
    trainer = build(tasks, Custom(tasks))
    trainer.train(batch(tasks), batch(tasks), 1)
    with pytest.raises(UsageError, match="without a dot"):
        build(tasks, Custom(tasks), "Recon")
    model = build(["a", "b"], Custom(["a", "b"]), "Recon").model
    assert "one.tasks.a.weight" in model.encoder.state_dict()


def test_the_library_says_the_same() -> None:
    said = re.escape("(got 'v1.0'). Rename the task, for example to 'v1_0'.")
    with pytest.raises(UsageError, match=f"tasks must be names fit for modules.*{said}"):
        split_layers(Encoder(), ["one"], ["v1.0", "b"])
    with pytest.raises(UsageError, match=f"tasks must be names fit for modules.*{said}"):
        RotoGrad(["v1.0", "b"], 6)
