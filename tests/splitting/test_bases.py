"""Recon over each of LibMTL's architectures: T plain ones, to the last bit, and no work twice."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import argparse
import copy
import json
from pathlib import Path
from typing import Any

import LibMTL
import LibMTL.architecture as architectures
import LibMTL.weighting as weightings
import pytest
import torch
from LibMTL import Trainer
from LibMTL.config import LibMTL_args, prepare_args
from LibMTL.loss import CELoss
from LibMTL.metrics import AccMetric
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.compatibility.cells import SPLIT, Cell, run_cell, weighting_names
from benchmarks.compatibility.networks import (
    IMAGE,
    SmallResNet,
    WrappedResNet,
    make_decoder,
)
from libmtl_recon import ConflictProfile, ScoringHook, UsageError
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.flags import recon
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.splitting.split import only_task, task_parameters
from libmtl_recon.splitting.state import plain_names
from libmtl_recon.splitting.task_specific import TaskSpecific

TASKS = ("a", "b", "c")
BASES = [base for base in SPLIT if base != "HPS"]
WRAPPED = "MTAN (wrapped)"
LAYERS = {
    **SPLIT,
    WRAPPED: ("own", "resnet_network.shared_layer.2.0.0.conv"),
}


pytestmark = pytest.mark.usefixtures("narrow")


def make_model(arch: str, base: str, folder: Path, **changes: Any) -> Any:
    """A model of LibMTL: plain (``arch`` is the base) or Recon over the base."""
    torch.manual_seed(0)
    wrapped = base == WRAPPED
    base = base.split()[0]
    arch_args: dict[str, Any] = {"img_size": IMAGE}
    arch_args["num_experts"] = [3] if base == "DSelect_k" else [2, 1, 1, 1]
    arch_args |= {"num_nonzeros": 2, "kgamma": 1.0} if base == "DSelect_k" else {}
    if arch == "Recon":
        file = folder / "layers.json"
        worst, second = LAYERS[WRAPPED if wrapped else base]
        file.write_text(json.dumps({worst: 2, second: 1}))
        arch_args |= {"recon_k": 2, "recon_s": -0.1, "recon_layers": str(file)}
        arch_args |= {"recon_base": base, **changes.pop("arch_args", {})}
    given = {
        "task_dict": {
            task: {"metrics": ["Acc"], "metrics_fn": AccMetric(), "loss_fn": CELoss(),
                   "weight": [1]}
            for task in TASKS
        },
        "encoder_class": WrappedResNet if wrapped else SmallResNet,
        "decoders": nn.ModuleDict({task: make_decoder() for task in TASKS}),
        "rep_grad": False,
        "multi_input": False,
        "optim_param": {"optim": "adam", "lr": 1e-2},
        "scheduler_param": None,
        "weight_args": {},
        "arch_args": arch_args,
    }  # fmt: skip
    by_name = detect(LibMTL).by_name
    methods = {"weighting": "EW", "architecture": arch if arch == "Recon" else base}
    if not by_name:
        methods["weighting"] = weightings.EW
        methods["architecture"] = vars(architectures)[methods["architecture"]]
    return Trainer(**{**given, **methods, **changes})


def images(count: int = 5) -> Tensor:
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(3))


def part_ways(model: Any, plain: Any) -> dict[str, Any]:
    """Change each task's copies, and make a plain model of each."""
    torch.manual_seed(7)
    found = {}
    root = root_of(model)
    for task in TASKS:
        own = task_parameters(root, task)
        with torch.no_grad():
            for value in own.values():
                if isinstance(value, nn.Parameter):
                    value.add_(0.1 * torch.randn_like(value))
        found[task] = copy.deepcopy(plain)
        inside = found[task] if root is model else found[task].encoder
        inside.load_state_dict({**inside.state_dict(), **own})
    return found


def root_of(model: Any) -> Any:
    return model if "experts_shared" in dict(model.named_children()) else model.encoder


@pytest.mark.parametrize("base", [*BASES, WRAPPED])
def test_is_the_base_at_conversion_and_a_plain_network_for_each_task_after(
    base: str, tmp_path: Path
) -> None:
    plain = make_model(base, base, tmp_path).model
    model = make_model("Recon", base, tmp_path).model
    assert isinstance(model, vars(architectures)[base.split()[0]])
    x = images()
    fresh = copy.deepcopy(model)(x)
    for task, prediction in copy.deepcopy(plain)(x).items():
        assert torch.equal(fresh[task], prediction)
    separate = part_ways(model, plain)
    for _ in range(2):  # statistics move in the first
        found = model(x)
        assert all(type(prediction) is Tensor for prediction in found.values())
        expected = {task: separate[task](x)[task] for task in TASKS}
        for task in TASKS:
            assert torch.equal(found[task], expected[task]), task
    model.zero_grad()
    sum((i + 1) * found[task].square().mean() for i, task in enumerate(TASKS)).backward()
    for i, task in enumerate(TASKS):
        separate[task].zero_grad()
        ((i + 1) * expected[task].square().mean()).backward()
    root = root_of(model)
    roots = {t: separate[t] if root is model else separate[t].encoder for t in TASKS}
    plain_gradients = {t: {n: p.grad for n, p in roots[t].named_parameters()} for t in TASKS}
    for task in TASKS:
        for name, value in task_parameters(root, task).items():
            if isinstance(value, nn.Parameter):
                torch.testing.assert_close(value.grad, plain_gradients[task][name])
    for name, parameter in root.named_parameters():
        if name in plain_gradients["a"] and not name.startswith("decoders"):
            each = [plain_gradients[t][name] for t in TASKS]
            each = [g for g in each if g is not None]
            torch.testing.assert_close(parameter.grad, sum(each), rtol=1e-7, atol=1e-12)
    # Norms through which LibMTL itself sends all tasks keep statistics of all.
    for task in TASKS:
        inside, state = roots[task], root.state_dict()
        picked = {
            plain: state[next((key for key in keys if f".tasks.{task}." in key), keys[0])]
            for plain, keys in plain_names(root).items()
        }
        inside.load_state_dict(picked)
    for network in (model, *separate.values()):
        network.eval()
    found = model(x)
    for task in TASKS:
        assert torch.equal(found[task], separate[task](x)[task])


@pytest.mark.parametrize("base", BASES)
def test_one_task_alone_is_that_tasks_network(base: str, tmp_path: Path) -> None:
    if base == "PLE" and detect(LibMTL).by_name:
        pytest.skip("LibMTL's main branch has no PLE for multi_input")
    plain = make_model(base, base, tmp_path, multi_input=True).model
    model = make_model("Recon", base, tmp_path, multi_input=True).model
    separate = part_ways(model, plain)
    for index, task in enumerate(TASKS):
        x = images() + index
        found = model(x, task)
        assert list(found) == [task]
        assert torch.equal(found[task], separate[task](x, task)[task])


@pytest.mark.parametrize("base", BASES)
def test_only_task_gives_that_task_alone(base: str, tmp_path: Path) -> None:
    model = make_model("Recon", base, tmp_path).model
    part_ways(model, make_model(base, base, tmp_path).model)
    model(images())
    expected = model.eval()(images())
    for task in TASKS:
        with only_task(model, task):
            found = model(images())
        assert list(found) == [task]
        assert torch.equal(found[task], expected[task])


class Work(TorchDispatchMode):
    """Counts what runs, forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = func.name()
        self.products += named.startswith(("aten::convolution", "aten::bmm", "aten::addmm"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("base", BASES)
def test_what_is_one_tasks_runs_once(base: str, tmp_path: Path) -> None:
    """Splitting the last layer repeats what stands behind it once per task, and nothing more."""
    plain = make_model(base, base, tmp_path).model.eval()
    last = {
        "MTAN": ("shared_layer.3.1.conv", "shared_layer.3.1.bn"),
        "PLE": ("shared_layer.4.0.1.conv", "shared_layer.4.0.1.bn"),
    }.get(base, ("experts_shared.0.layer4.1.conv", "experts_shared.0.layer4.1.bn"))
    file = tmp_path / "last.json"
    file.write_text(json.dumps({last[0]: 2, last[1]: 1}))
    arch_args = {"recon_layers": str(file)}
    model = make_model("Recon", base, tmp_path, arch_args=arch_args).model.eval()
    with Work() as before:
        plain(images())
    with Work() as after:
        model(images())
    # PLE runs its shared layers once per task as it is.
    assert after.products == before.products + (0 if base == "PLE" else len(TASKS) - 1)


@pytest.mark.parametrize("base", BASES)
def test_shares_what_the_base_shares_and_is_not_split(base: str, tmp_path: Path) -> None:
    model = make_model("Recon", base, tmp_path).model
    plain = make_model(base, base, tmp_path).model
    shared = model.get_share_params()
    split = set(LAYERS[base])
    inside = plain if root_of(plain) is plain else plain.encoder
    names = {id(p): n for n, p in inside.named_parameters()}
    expected = [
        names[id(p)]
        for p in plain.get_share_params()
        if names[id(p)].rpartition(".")[0] not in split
    ]
    found = {id(p): n for n, p in root_of(model).named_parameters()}
    assert [found[id(p)] for p in shared] == expected
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.zero_grad_share_params()
    ids = {id(p) for p in shared}
    assert all(bool(p.grad.any()) != (id(p) in ids) for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model(images())
    own = [m for m in norms if isinstance(m, TaskSpecific)]
    branches = [m for name, m in model.named_modules() if "specific" in name or "att" in name]
    assert own
    assert not any(isinstance(module, TaskSpecific) for module in branches)


def loaders() -> Any:
    return [(images() + i, {task: torch.arange(5) % 2 for task in TASKS}) for i in range(2)]


@pytest.mark.parametrize("base", BASES)
def test_finds_the_profile_that_scoring_the_base_gave(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    from libmtl_recon import ProfileCache

    hook = ScoringHook()
    with trainer_hooks(hook):
        trainer = make_model(base, base, tmp_path)
        trainer.train(loaders(), loaders(), epochs=1)
    profile = hook.profile()
    assert isinstance(profile, ConflictProfile)
    assert profile.provenance["architecture"] == base
    shared = list(trainer.model.get_share_params())
    assert profile.architecture == layers_of(root_of(trainer.model), shared)
    assert sum(profile.parameter_counts) == sum(p.numel() for p in shared)
    name = ProfileCache().save(profile)
    capsys.readouterr()
    model = make_model("Recon", base, tmp_path, arch_args={"recon_layers": None}).model
    assert f"layers from profile {name}" in capsys.readouterr().out
    worst = profile.layers(-0.1, 2)
    assert {n.rpartition(".")[0] for n in task_parameters(root_of(model), "a")} >= set(worst)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("weighting", ["EW", "GradOPS"])
def test_trains_by_the_weightings_closed_form(weighting: str, base: str) -> None:
    verdict = run_cell(Cell(weighting, f"Recon over {base}", 2))
    assert (verdict.kind, verdict.reason, verdict.checked) == ("trains", "", True)


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("weighting", weighting_names())
def test_trains_with_every_weighting(weighting: str, base: str) -> None:
    for multi_input in (False, True):
        rep_grad = weighting == "GradDrop"
        verdict = run_cell(Cell(weighting, f"Recon over {base}", 3, rep_grad, multi_input))
        plain = run_cell(Cell(weighting, base, 3, rep_grad, multi_input))
        assert verdict.kind == plain.kind, (verdict.reason, plain.reason)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("Cross_stitch", "its own network by construction"),
        ("LTB", "its own network by construction"),
        ("Recon", "There are: CGC, DSelect_k, HPS, MMoE, MTAN, PLE"),
        ("MMOE", "There are: CGC"),
    ],
)
def test_refuses_a_base_without_shared_layers(base: str, said: str) -> None:
    params = argparse.Namespace(recon_k=2, recon_base=base)
    with pytest.raises(UsageError, match=f"--recon_base must be .*{said}"):
        recon.values(params)


def test_the_bases_own_flags_reach_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--arch", "Recon", "--recon_base", "CGC", "--recon_k", "3"]
    flags += ["--img_size", "3", "16", "16", "--num_experts", "2", "1", "1"]
    kwargs, _, _ = prepare_args(LibMTL_args.parse_args(flags))
    assert kwargs["arch_args"]["num_experts"] == [2, 1, 1]
    assert kwargs["arch_args"]["recon_base"] == "CGC"
    with pytest.raises(SystemExit):
        prepare_args(LibMTL_args.parse_args([*flags, "--recon_base", "LTB"]))
    assert "--recon_base must be" in capsys.readouterr().err
