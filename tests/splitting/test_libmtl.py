"""Recon in LibMTL: trains with its weightings, each task in its own layers."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL import Trainer
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import nn
from torch.utils.checkpoint import checkpoint

from libmtl_recon import ProfileCache, ReconError, SingleTask, UsageError, only_task
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.integrations.libmtl.flags import recon
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.splitting import task_parameters

TASKS = ("a", "b", "c")
ARGS = {
    "CAGrad": {"calpha": 0.5, "rescale": 1},
    "GradNorm": {"alpha": 1.5},
    "MGDA": {"mgda_gn": "none"},
    "GradOPS": {"gradops_alpha": -1.0},
    "RotoGrad": {
        "rotograd_mode": "full", "rotograd_lr": 5e-3, "rotograd_decay": 0.99,
        "rotograd_burn_in": 2, "rotograd_map": "cayley", "rotograd_every": 1,
        "rotograd_size": None, "rotograd_alpha": 1.5,
    },
}  # fmt: skip


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.two(torch.relu(self.norm(self.one(x)))))


def batches() -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    draws = [torch.randn(16, 5, generator=generator) for _ in range(4)]
    return [(x, {task: (x[:, i] > 0).long() for i, task in enumerate(TASKS)}) for x in draws]


def make(folder: Path, weighting: str = "EW", arch: str = "Recon", **changes: Any) -> Trainer:
    torch.manual_seed(0)
    file = folder / "layers.json"
    file.write_text(json.dumps({"norm": 5, "one": 3, "two": 1}), encoding="utf-8")
    arch_args = {"recon_k": 2, "recon_s": -0.1, "recon_layers": str(file)}
    given: dict[str, Any] = {
        "task_dict": {
            task: {
                "metrics": ["Acc"],
                "metrics_fn": AccMetric(),
                "loss_fn": CELoss(),
                "weight": [1],
            }
            for task in TASKS
        },
        "weighting": vars(weightings)[weighting],
        "architecture": vars(architectures)[arch],
        "encoder_class": Encoder,
        "decoders": nn.ModuleDict({task: nn.Linear(6, 2) for task in TASKS}),
        "rep_grad": False,
        "multi_input": False,
        "optim_param": {"optim": "adam", "lr": 1e-2},
        "scheduler_param": None,
        "weight_args": ARGS.get(weighting, {}),
        "arch_args": {**arch_args, **changes.pop("arch_args", {})},
    }
    return changes.pop("trainer_class", Trainer)(**{**given, **changes})


@pytest.mark.parametrize(
    "weighting", ["EW", "UW", "GradNorm", "MGDA", "PCGrad", "CAGrad", "IMTL", "GradOPS"]
)
def test_trains_with_libmtls_weightings(weighting: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, weighting)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(batches(), batches(), epochs=2)
    still = [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    assert not still
    own = trainer.model.state_dict()
    assert not torch.equal(own["encoder.one.tasks.a.weight"], own["encoder.one.tasks.b.weight"])


@pytest.mark.parametrize("weighting", ["EW", "GradOPS", "PCGrad"])
def test_a_tasks_layers_get_its_own_raw_gradient(weighting: str, tmp_path: Path) -> None:
    trainer = make(tmp_path, weighting)
    model = trainer.model
    x, labels = batches()[0]
    expected = {}
    for task in TASKS:
        loss = nn.functional.cross_entropy(model(x)[task], labels[task])
        own = dict(model.named_parameters())[f"encoder.one.tasks.{task}.weight"]
        (expected[task],) = torch.autograd.grad(loss, own)
    predictions = model(x)
    losses = torch.stack([nn.functional.cross_entropy(predictions[t], labels[t]) for t in TASKS])
    model.zero_grad()
    model.backward(losses, **ARGS.get(weighting, {}))
    for task in TASKS:
        found = dict(model.named_parameters())[f"encoder.one.tasks.{task}.weight"].grad
        torch.testing.assert_close(found, expected[task], rtol=1e-5, atol=1e-7)


def test_starts_as_hard_parameter_sharing_does(tmp_path: Path) -> None:
    x = batches()[0][0]
    plain, split = (make(tmp_path, arch=arch).model for arch in ("HPS", "Recon"))
    for task in TASKS:
        assert torch.equal(plain(x)[task], split(x)[task])


def test_shared_parameters_are_what_is_still_shared(tmp_path: Path) -> None:
    model = make(tmp_path).model
    assert [tuple(p.shape) for p in model.get_share_params()] == [(6, 8), (6,)]


def test_one_task_alone_runs_its_branch_alone(tmp_path: Path) -> None:
    model = make(tmp_path, multi_input=True).model
    calls: list[type] = []
    model.encoder.two.register_forward_pre_hook(lambda module, args: calls.append(type(args[0])))
    predictions = model(batches()[0][0], "b")
    assert list(predictions) == ["b"]
    assert len(calls) == 1
    with only_task(model.encoder, "b"):
        assert torch.equal(predictions["b"], model.decoders["b"](model.encoder(batches()[0][0])))


def test_only_task_takes_the_model_or_its_encoder(tmp_path: Path) -> None:
    model = make(tmp_path).model.eval()
    x = batches()[0][0]
    expected = model(x)
    for network in (model, model.encoder):
        with only_task(network, "b"):
            found = model(x)
        assert list(found) == ["b"], "other tasks' decoders do not fit this representation"
        assert torch.equal(found["b"], expected["b"])
    with only_task(model, "b"):
        assert torch.equal(model(x, "a")["a"], expected["a"])


class Recomputing(Encoder):
    """Its activations are computed again in the backward pass, to save memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


@pytest.mark.parametrize("multi_input", [False, True])
def test_encoders_may_recompute(multi_input: bool, tmp_path: Path) -> None:
    x, labels = batches()[0]
    found = []
    for encoder in (Encoder, Recomputing):
        # Each recomputation would update running statistics once more, as that of a plain network.
        model = make(tmp_path, multi_input=multi_input, encoder_class=encoder).model.eval()
        with torch.no_grad():
            for number, task in enumerate(TASKS):
                for parameter in task_parameters(model.encoder, task).values():
                    parameter.add_(number)
        each = {task: model(x, task)[task] for task in TASKS} if multi_input else model(x)
        model.backward(
            torch.stack([nn.functional.cross_entropy(each[t], labels[t]) for t in TASKS])
        )
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_multi_input_trains(tmp_path: Path) -> None:
    trainer = make(tmp_path, multi_input=True, weighting="GradOPS")
    loaders = {task: [(x, labels[task]) for x, labels in batches()] for task in TASKS}
    before = trainer.model.encoder.two.weight.clone()
    trainer.train(loaders, loaders, epochs=1)
    assert not torch.equal(trainer.model.encoder.two.weight, before)


def test_representation_gradients_reach_each_tasks_layers(tmp_path: Path) -> None:
    trainer = make(tmp_path, weighting="MGDA", rep_grad=True)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(batches(), batches(), epochs=1)
    still = [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    assert not still


def test_takes_its_layers_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    without = {"recon_layers": None}
    with pytest.raises(ReconError, match="libmtl-recon score"):
        make(tmp_path, arch_args=without)
    hook = ScoringHook()
    with trainer_hooks(hook):
        make(tmp_path, arch="HPS").train(batches(), batches(), epochs=2)
    profile = hook.profile()
    assert profile.architecture == layers_of(Encoder())
    name = ProfileCache().save(profile)
    model = make(tmp_path, arch_args=without).model
    worst = profile.layers(-0.1, 2)
    keys = set(model.state_dict())
    assert all(f"encoder.{layer}.tasks.a.weight" in keys for layer in worst)
    assert f"layers from profile {name}" in capsys.readouterr().out


def test_takes_published_layers_under_other_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def split(scores: dict[str, int], **flags: Any) -> set[str]:
        file = tmp_path / "published.json"
        file.write_text(json.dumps(scores), encoding="utf-8")
        namespace = argparse.Namespace(recon_k=2, recon_layers=str(file), **flags)
        model = make(tmp_path, arch_args=recon.values(namespace)).model
        keys = set(model.state_dict())
        return {name for name in ("one", "norm", "two") if f"encoder.{name}.tasks.a.bias" in keys}

    wrapped = {"encoder.two.m_list.0": 5, "encoder.norm.m_list.0": 7, "encoder.one.m_list.0": 1}
    assert split(wrapped) == {"two", "norm"}
    with pytest.raises(UsageError, match=r"\(got 'fc'\).*the others by --recon_skip_missing"):
        split({"fc": 9, "two": 5, "one": 1})
    assert split({"fc": 9, "two": 5, "one": 1}, recon_skip_missing=True) == {"two", "one"}
    with pytest.raises(UsageError, match="is matched by --recon_match order"):
        split({"0": 1, "1": 3, "2": 5})
    capsys.readouterr()
    assert split({"0": 1, "1": 3, "2": 5}, recon_match="order") == {"norm", "two"}
    out = capsys.readouterr().out
    assert "\t0 -> one\n\t1 -> norm\n\t2 -> two\n" in out
    with pytest.raises(UsageError, match="--recon_match cannot be order alone"):
        split({"1": 5, "0": 3, "2": 1}, recon_match="order")
    with pytest.raises(UsageError, match="--recon_match must be names, order"):
        split({"0": 1}, recon_match="oder")


def test_refuses_more_layers_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"from 1 to 3.*\(got 4\)"):
        make(tmp_path, arch_args={"recon_k": 4})


@pytest.mark.parametrize("weighting", ["EW", "GradOPS"])
def test_refuses_to_share_nothing(weighting: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--recon_k must leave a layer shared, so be below 3"):
        make(tmp_path, weighting=weighting, arch_args={"recon_k": 3})


def test_refuses_a_single_task(tmp_path: Path) -> None:
    with trainer_hooks(SingleTask("b")), pytest.raises(UsageError, match="needs two or more tasks"):
        make(tmp_path)


def test_a_profile_of_other_tasks_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    hook = ScoringHook()
    with trainer_hooks(hook):
        make(tmp_path, arch="HPS").train(batches(), batches(), epochs=1)
    profile = hook.profile()
    ProfileCache().save(dataclasses.replace(profile, tasks=("a", "b", "renamed")))
    make(tmp_path, arch_args={"recon_layers": None})
    assert "tasks a, b, renamed)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"recon_bn": "shared"}, "--recon_bn must be per_task or mixed"),
        ({"recon_init": "zero"}, "--recon_init must be copy or fresh"),
        ({"recon_init": "fresh", "recon_from": "x.pt"}, "--recon_init must be copy with"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        recon.values(argparse.Namespace(recon_k=2, **flags))


def test_flags_reach_the_split(tmp_path: Path) -> None:
    model = make(tmp_path, arch_args={"recon_init": "fresh", "recon_bn": "mixed", "recon_k": 1,
                                      "recon_layers": one(tmp_path)}).model  # fmt: skip
    state = model.state_dict()
    assert not torch.equal(state["encoder.one.tasks.a.weight"], state["encoder.one.tasks.b.weight"])
    model(batches()[0][0])
    assert "encoder.norm.running_mean" in model.state_dict()


def one(folder: Path) -> str:
    file = folder / "one.json"
    file.write_text('{"one": 1}')
    return str(file)


class ListEncoder(Encoder):
    """Gives a representation a task, as LibMTL lets encoders do."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [super(ListEncoder, self).forward(x * (task + 1)) for task in range(len(TASKS))]


def test_an_encoder_may_return_a_list_of_representations(tmp_path: Path) -> None:
    x = batches()[0][0]
    plain, split = (
        make(tmp_path, arch=arch, encoder_class=ListEncoder).model for arch in ("HPS", "Recon")
    )
    expected, found = plain(x), split(x)
    for task in TASKS:
        assert torch.equal(expected[task], found[task])
    assert not torch.equal(expected["a"], expected["b"])
    alone = make(tmp_path, encoder_class=ListEncoder, multi_input=True).model.eval()
    assert torch.equal(alone(x, "b")["b"], alone(x)["b"])
