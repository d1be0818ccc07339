"""A checkpoint of ``--arch Recon`` builds the network that was trained, whatever else has changed.

Holds of both LibMTLs; `test_main_branch.py` runs it with the main branch.
"""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import LibMTL
import pytest
import torch
from example_profiles import profile_of
from LibMTL.config import LibMTL_args, prepare_args
from torch import Tensor, nn
from trainer_arguments import WEIGHT_ARGUMENTS, classifications

from libmtl_recon import ProfileCache, ReconError, UsageError, extract_task, split_from, summary
from libmtl_recon.conflicts.layers import layers_of
from libmtl_recon.integrations.libmtl.arguments import forget_prepared
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.split_source import building_for
from libmtl_recon.splitting.checkpoint import read_checkpoint
from libmtl_recon.splitting.spec_storage import file_beside, spec_of, write_beside

TASKS = ("a", "b")
FEATURES = detect(LibMTL)
OPTIMIZERS = {
    "adam": {"optim": "adam", "lr": 1e-2},
    "sgd": {"optim": "sgd", "lr": 1e-1, "momentum": 0.9},
}
saves_models = pytest.mark.skipif(
    not FEATURES.saves_models, reason="LibMTL's release has no --save_path"
)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(torch.relu(self.norm(self.one(x)))))


LAYERS = layers_of(Encoder())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProfileCache]:
    """An empty cache; and no arguments of an earlier script."""
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")
    monkeypatch.setattr(sys, "argv", ["main.py"])
    forget_prepared()
    yield ProfileCache()
    forget_prepared()


def batches() -> Any:
    generator = torch.Generator().manual_seed(3)
    draws = [torch.randn(16, 5, generator=generator) for _ in range(4)]
    return [(x, {task: (x[:, i] > 0).long() for i, task in enumerate(TASKS)}) for x in draws]


def make(arch: str = "Recon", weighting: str = "EW", optim: str = "adam", **changes: Any) -> Any:
    torch.manual_seed(changes.pop("seed", 0))
    tasks = changes.pop("tasks", TASKS)
    given: dict[str, Any] = {
        "task_dict": classifications(tasks),
        "weighting": weighting if FEATURES.by_name else vars(LibMTL.weighting)[weighting],
        "architecture": arch if FEATURES.by_name else vars(LibMTL.architecture)[arch],
        "encoder_class": Encoder,
        "decoders": nn.ModuleDict({task: nn.Linear(6, 2) for task in tasks}),
        "rep_grad": False,
        "multi_input": False,
        "optim_param": OPTIMIZERS[optim],
        "scheduler_param": None,
        "weight_args": WEIGHT_ARGUMENTS.get(weighting, {}),
        "arch_args": {},
        **({"save_path": None, "load_path": None} if FEATURES.saves_models else {}),
    }
    return LibMTL.Trainer(**{**given, **changes})


def recon(**more: Any) -> dict[str, Any]:
    return {"recon_k": 2, "recon_layers": "norm,one", **more}


def save(trainer: Any, file: Path) -> str:
    model, optimizer = trainer.model.state_dict(), trainer.optimizer.state_dict()
    torch.save({"model": model, "optimizer": optimizer}, file)
    return str(file)


def outputs(model: nn.Module) -> dict[str, Tensor]:
    model.eval()
    with torch.no_grad():
        found: dict[str, Tensor] = model(batches()[1][0])
    return found


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = [(outputs(one)[task], outputs(other)[task]) for task in TASKS]
    return all(torch.equal(a, b) for a, b in pairs)


def equal_states(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("optim", OPTIMIZERS)
@pytest.mark.parametrize(
    ("weighting", "more"),
    [("EW", {}), ("UW", {"recon_bn": "mixed"}), ("GradOPS", {"recon_init": "fresh"})],
)
def test_goes_on_as_if_never_interrupted(
    weighting: str, more: dict[str, Any], optim: str, tmp_path: Path
) -> None:
    whole, first = (make(weighting=weighting, optim=optim, arch_args=recon(**more)) for _ in "ab")
    whole.train(batches(), batches(), 3)
    first.train(batches(), batches(), 1)
    file = save(first, tmp_path / "c.pt")
    rest = make(weighting=weighting, optim=optim, seed=5, arch_args={"recon_from": file})
    assert same(rest.model, first.model)
    rest.train(batches(), batches(), 2)
    assert equal_states(rest.model, whole.model)


def test_what_is_scored_afterwards_does_not_matter(cache: ProfileCache, tmp_path: Path) -> None:
    flags = {"recon_k": 1}
    first_id = cache.save(profile_of([[0.1], [-0.9], [0.2]], LAYERS))
    trained = make(arch_args=flags)
    trained.train(batches(), batches(), 1)
    file = save(trained, tmp_path / "c.pt")
    spec = spec_of(trained.model)
    assert spec is not None
    assert (spec.layers, spec.root, spec.tasks) == (("norm",), "encoder", TASKS)
    origin = {"base": "HPS", "K": 1, "S": -0.1, "select": "conflict", "source": None}
    assert spec.origin == {**origin, "profile": first_id}
    assert set(spec.versions) == {"libmtl-recon", "torch", "LibMTL"}
    cache.save(profile_of([[-0.9, -0.9], [0.1, 0.1], [0.2, 0.2]], LAYERS))
    other = spec_of(make(arch_args=flags).model)
    assert other is not None
    assert other.layers == ("one",), "the same flags give another network now"
    again = make(arch_args={**flags, "recon_from": file}, seed=7)
    assert same(again.model, trained.model)
    assert spec_of(again.model) == spec
    cache.remove(first_id)
    assert same(
        make(arch_args={"recon_from": file, "recon_layers": first_id[:4]}).model, trained.model
    )


CONTRADICTIONS = {
    "recon_k": 3,
    "recon_s": -0.2,
    "recon_select": "first",
    "recon_base": "MMoE",
    "recon_bn": "mixed",
    "recon_init": "fresh",
    "recon_layers": "two,one",
}


@pytest.mark.parametrize("dest", CONTRADICTIONS)
def test_what_contradicts_the_checkpoint_is_refused_by_name(dest: str, tmp_path: Path) -> None:
    file = save(make(arch_args=recon()), tmp_path / "c.pt")
    given = {"recon_from": file, dest: CONTRADICTIONS[dest]}
    with pytest.raises(UsageError, match=rf"^--{dest} must .*--recon_from {file}.*Leave it out"):
        make(arch_args=given)
    # The same as it was trained with is no contradiction, and other names for the same layers.
    make(arch_args={**recon(), "recon_s": -0.1, "recon_bn": "per_task", "recon_from": file})
    make(arch_args={"recon_layers": "one,norm,two", "recon_from": file})


def test_the_same_layers_under_other_names_are_no_contradiction(tmp_path: Path) -> None:
    file = save(make(arch_args=recon()), tmp_path / "c.pt")
    for scores, more in (
        ({"module.norm": 9, "module.one": 5}, {}),
        ({"norm": 9, "one": 5, "head": 7}, {"recon_skip_missing": True}),
        ({"0": 5, "1": 9, "2": 1}, {"recon_match": "order"}),
    ):
        (tmp_path / "other.json").write_text(json.dumps(scores))
        given = {"recon_from": file, "recon_layers": str(tmp_path / "other.json")}
        make(arch_args={**given, **more})
        if more:
            with pytest.raises(UsageError, match=r"^--recon_layers must name the layers that are"):
                make(arch_args=given)


def test_a_default_that_was_not_given_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = save(make(arch_args=recon(recon_s=-0.2, recon_bn="mixed")), tmp_path / "c.pt")

    def by_flags(*flags: str) -> Any:
        words = ["--arch", "Recon", "--recon_from", file, *flags]
        monkeypatch.setattr(sys, "argv", ["main.py", *words])
        kwargs, _, _ = prepare_args(LibMTL_args.parse_args(words))
        return make(**kwargs)

    spec = spec_of(by_flags().model)
    assert spec is not None
    assert (spec.bn, spec.origin["S"]) == ("mixed", -0.2)
    by_flags("--recon_s=-0.2", "--recon_k", "2", "--recon_layers", "norm,one")
    for flags, name in (
        (("--recon_s=-0.1",), "--recon_s must be -0.2"),
        (("--recon_bn", "per_task"), "--recon_bn must be mixed"),
        (("--recon_k", "1"), "--recon_k must be 2"),
        (("--recon_base", "HPS", "--recon_select", "last"), "--recon_select must be conflict"),
    ):
        with pytest.raises((SystemExit, UsageError)) as caught:
            by_flags(*flags)
        assert name in str(getattr(caught.value, "__context__", None) or caught.value)


def test_norms_are_split_without_a_profile_and_go_on_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--arch", "Recon", "--recon_k", "2", "--recon_select", "norms"]
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    kwargs, _, _ = prepare_args(LibMTL_args.parse_args(words))
    trained = make(**kwargs)
    trained.train(batches(), batches(), 1)
    spec = spec_of(trained.model)
    assert spec is not None
    assert spec.layers == ("norm", "one")
    assert spec.origin == {
        "base": "HPS", "K": 2, "S": -0.1, "select": "norms", "source": None, "profile": None,
    }  # fmt: skip
    file = save(trained, tmp_path / "c.pt")
    for more in ({}, {"recon_select": "norms"}, {"recon_layers": "two"}):
        assert same(make(seed=3, arch_args={"recon_from": file, **more}).model, trained.model)
    with pytest.raises(UsageError, match=r"^--recon_select must be norms"):
        make(arch_args={"recon_from": file, "recon_select": "first"})


def test_the_base_architecture_follows(tmp_path: Path) -> None:
    gates = {"img_size": [5], "num_experts": [2]}
    names = [f"experts_shared.0.{name}" for name in ("one", "norm")]
    trained = make(arch_args={**gates, **recon(recon_base="MMoE", recon_layers=",".join(names))})
    trained.train(batches(), batches(), 1)
    file = save(trained, tmp_path / "c.pt")
    spec = spec_of(trained.model)
    assert spec is not None
    assert (spec.root, spec.origin["base"]) == ("", "MMoE")
    again = make(arch_args={**gates, "recon_from": file}, seed=4)
    assert same(again.model, trained.model)
    with pytest.raises(ReconError, match="does not fit this network"):
        split_from(file, Encoder())


def test_an_encoder_alone_will_do(tmp_path: Path) -> None:
    trained = make(arch_args=recon())
    trained.train(batches(), batches(), 1)
    file = tmp_path / "encoder.pt"
    torch.save(trained.model.encoder.state_dict(), file)
    encoder = make(arch_args={"recon_from": str(file)}, seed=4).model.encoder
    assert equal_states(encoder, trained.model.encoder)
    # As a library, out of the checkpoint of the encoder and out of that of the model.
    x = batches()[0][0]
    trained.model.eval()
    for checkpoint in (file, Path(save(trained, tmp_path / "c.pt")), trained.model.state_dict()):
        alone = split_from(checkpoint, Encoder()).eval()
        for task in TASKS:
            expected = trained.model.encoder(x)[task]
            assert torch.equal(alone(x)[task], expected)


def test_libmtls_model_is_not_split_from_outside(tmp_path: Path) -> None:
    file = save(make(arch_args=recon()), tmp_path / "c.pt")
    with pytest.raises(UsageError, match=r"must not be LibMTL's model.*--recon_from FILE"):
        split_from(file, make("HPS").model)


def test_another_network_or_other_tasks_are_refused(tmp_path: Path) -> None:
    file = save(make(arch_args=recon()), tmp_path / "c.pt")

    class Renamed(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 6))

    with pytest.raises(ReconError, match=r"of another network: .*this one lacks \(norm, one\)"):
        make(arch_args={"recon_from": file}, encoder_class=Renamed)
    with pytest.raises(ReconError, match=r"for the tasks a, b, but the script's tasks are a, c\."):
        make(arch_args={"recon_from": file}, tasks=("a", "c"))
    turned = make(arch_args={"recon_from": file}, tasks=("b", "a"))
    assert list(turned.model.encoder.one.tasks._modules) == ["b", "a"]
    assert same(turned.model, make(arch_args={"recon_from": file}).model)


def test_a_split_that_a_file_tells_of_wrongly_is_refused(tmp_path: Path) -> None:
    trained = make(arch_args=recon())
    file = tmp_path / "c.pt"
    torch.save(dict(trained.model.state_dict()), file)
    way_out = (
        r"already split, but does not contain how.*c.pt.split.json .*_k 2 --recon_layers one,norm,"
    )
    for flags in ({}, recon(recon_layers="one,two")):
        with pytest.raises(ReconError, match=way_out):
            make(arch_args={**flags, "recon_from": str(file)})
    if FEATURES.saves_models:
        with pytest.raises(ReconError, match=way_out):
            make(load_path=str(file))
    with (
        building_for(read_checkpoint("CHECKPOINT", file)),
        pytest.raises(ReconError, match=way_out),
    ):
        make()
    # Flags say it as well.
    assert equal_states(make(arch_args=recon(recon_from=str(file)), seed=4).model, trained.model)
    spec = spec_of(trained.model)
    assert spec is not None
    write_beside(file, spec)
    assert same(make(arch_args={"recon_from": str(file)}).model, trained.model)
    other = spec_of(make(arch_args=recon(recon_layers="two,one")).model)
    assert other is not None
    write_beside(file, other)
    with pytest.raises(ReconError, match="two has no values for the task 'a'"):
        make(arch_args={"recon_from": str(file)})


def test_the_checkpoint_of_extract_comes_first(tmp_path: Path) -> None:
    trained = make(arch_args=recon())
    trained.train(batches(), batches(), 1)
    checkpoint = read_checkpoint("CHECKPOINT", save(trained, tmp_path / "c.pt"))
    with building_for(checkpoint):
        built, later = make(), make(arch_args=recon(recon_layers="two,one"))
    assert list(built.model.state_dict()) == list(trained.model.state_dict())
    assert spec_of(later.model).layers == ("two", "one")  # type: ignore[union-attr]
    with (
        building_for(checkpoint),
        pytest.raises(UsageError, match=r"recon_k must be 2.*CHECKPOINT"),
    ):
        make(arch_args={"recon_k": 1})
    with (
        building_for(checkpoint),
        pytest.raises(ReconError, match=r"2 task-specific layers \(encoder.norm, encoder.one\)"),
    ):
        make("HPS")


def test_folded_rotations_say_it_too(tmp_path: Path) -> None:
    trained = make(weighting="RotoGrad", arch_args=recon())
    trained.train(batches(), batches(), 1)
    file = tmp_path / "folded.pt"
    torch.save(trained.model.folded_state_dict(), file)
    plain = make(arch_args={"recon_from": str(file)}, seed=4).model
    for task, expected in outputs(trained.model).items():
        torch.testing.assert_close(outputs(plain)[task], expected)


@saves_models
def test_save_path_writes_the_split_beside_and_load_path_follows_it(
    cache: ProfileCache, tmp_path: Path
) -> None:
    cache.save(profile_of([[0.1], [-0.9], [0.2]], LAYERS))
    folder = tmp_path / "out"
    trained = make(arch_args={"recon_k": 1, "recon_bn": "mixed"}, save_path=str(folder))
    trained.train(batches(), batches(), 1)
    file = folder / "best.pt"
    spec = spec_of(trained.model)
    assert spec is not None
    assert file_beside(file).read_text(encoding="utf-8") == spec.to_json()
    cache.save(profile_of([[-0.9, -0.9], [0.1, 0.1], [0.2, 0.2]], LAYERS))
    for given in (str(folder), str(file)):
        for flags in ({}, {"recon_k": 1}):
            assert same(make(arch_args=flags, load_path=given, seed=4).model, trained.model)
    # Also of a file that another tool has written once more.
    torch.save(dict(torch.load(file)), file)
    assert same(make(load_path=str(folder), seed=4).model, trained.model)
    with pytest.raises(UsageError, match=r"--recon_bn must be mixed, .*--load_path"):
        make(arch_args={"recon_bn": "per_task"}, load_path=str(folder))
    with pytest.raises(ReconError, match=r"1 task-specific layers \(encoder.norm\).*--arch Recon"):
        make("HPS", load_path=str(folder))
    # A network that shares all leaves nothing beside its file.
    make("HPS", save_path=str(folder)).train(batches(), batches(), 1)
    assert not file_beside(file).exists()
    make("HPS", load_path=str(folder))


@saves_models
@pytest.mark.parametrize("bn", ["per_task", "mixed"])
def test_load_path_takes_statistics_of_shared_norms_behind_a_split(bn: str, tmp_path: Path) -> None:
    trained = make(arch_args=recon(recon_k=1, recon_layers="one", recon_bn=bn))
    trained.train(batches(), batches(), 1)
    file = tmp_path / "c.pt"
    torch.save(trained.model.state_dict(), file)
    again = make(load_path=str(file), seed=4)
    assert same(again.model, trained.model)
    assert equal_states(again.model, trained.model)


@saves_models
def test_a_load_path_that_the_script_does_not_hand_on_is_refused(tmp_path: Path) -> None:
    file = save(make(arch_args=recon()), tmp_path / "c.pt")
    torch.save(torch.load(file)["model"], file)
    kwargs, _, _ = prepare_args(LibMTL_args.parse_args(["--arch", "Recon", "--load_path", file]))
    make(**kwargs, load_path=file)
    with pytest.raises(UsageError, match=r"--load_path must be passed to LibMTL's Trainer"):
        make(**kwargs)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("weighting", ["EW", "UW"])
def test_the_summary_names_the_parts_of_libmtls_model(weighting: str) -> None:
    model = make(weighting=weighting, arch_args=recon()).model
    found = summary(model)
    heads, encoder = parameters(nn.Linear(6, 2)), Encoder()
    own = parameters(encoder.one) + parameters(encoder.norm)
    assert found.shared.parts == {"encoder": parameters(encoder.two)}
    assert [row.name for row in found.tasks] == list(TASKS)
    assert all(row.parts == {"encoder": own, "decoders": heads} for row in found.tasks)
    assert found.total.parameters == parameters(encoder.two) + 2 * (own + heads)
    assert found.unsplit == parameters(encoder) + 2 * heads
    assert (found.weighting is not None) == (weighting == "UW")
    if found.weighting is not None:
        assert found.weighting.parameters == len(TASKS)
    alone = parameters(extract_task(model, "a"))
    assert alone == found.shared.parameters + found.tasks[0].parameters


GATED: dict[str, Callable[[Any], int]] = {
    "HPS": lambda model: 0,
    "MMoE": lambda model: parameters(model.gate_specific["a"]),
}


@pytest.mark.parametrize("arch", GATED)
def test_the_summary_of_other_architectures(arch: str) -> None:
    gates = {"img_size": [5], "num_experts": [2]} if arch == "MMoE" else {}
    model = make(arch, arch_args=gates).model
    found = summary(model)
    assert found.shared.parameters == sum(p.numel() for p in model.get_share_params())
    own = GATED[arch](model) + parameters(nn.Linear(6, 2))
    assert [row.parameters for row in found.tasks] == [own, own]
    assert found.growth == 1
    assert found.weighting is None
