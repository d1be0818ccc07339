"""A checkpoint loads under another weighting; of another split it is refused with the reason."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from small_problem import Encoder, batches, make_trainer

# isort: split
import LibMTL
import LibMTL.architecture as architectures
import pytest
import torch
from torch import nn

from libmtl_recon import ReconError
from libmtl_recon.integrations.libmtl.features import detect
from libmtl_recon.integrations.libmtl.loading import load_strictly

pytestmark = pytest.mark.skipif(
    detect(LibMTL).saves_models, reason="the arguments are those of LibMTL's PyPI release"
)


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBMTL_RECON_DEVICE", "cpu")


@pytest.fixture
def recon(tmp_path: Path) -> Iterator[Any]:
    def make(*layers: str, tasks: int = 2, **changes: Any) -> Any:
        file = tmp_path / "layers.json"
        file.write_text(json.dumps(dict.fromkeys(layers, 1)), encoding="utf-8")
        given = {"recon_k": len(layers), "recon_s": -0.1, "recon_layers": str(file)}
        return make_trainer(
            "GradOPS", tasks, architecture=architectures.Recon, arch_args=given, **changes
        )

    return make


def saved(trainer: Any, *, train: bool = True) -> dict[str, Any]:
    """The model's state dict, as it comes back from a file."""
    if train:
        trainer.train(batches(trainer.task_num), batches(trainer.task_num), epochs=1)
    file = io.BytesIO()
    torch.save(trainer.model.state_dict(), file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def check_loaded(model: nn.Module, state: dict[str, Any], *, but: str = "none") -> None:
    own = model.state_dict()
    shared = [key for key in state if key in own and key != but]
    assert len(shared) >= 8
    assert all(torch.equal(own[key], state[key]) for key in shared)


@pytest.mark.parametrize("other", ["EW", "PCGrad", "GradOPS"])
@pytest.mark.parametrize("weighting", ["EW", "CAGrad", "GradOPS"])
def test_weightings_without_parameters_share_checkpoints(
    weighting: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = saved(make_trainer(weighting))
    trainer = make_trainer(other)
    trainer.model.load_state_dict(state)
    check_loaded(trainer.model, state)
    assert "Recon: the checkpoint" not in capsys.readouterr().out


@pytest.mark.parametrize("weighting", ["UW", "GradNorm", "IMTL"])
def test_what_a_weighting_learned_is_left_out_of_another(
    weighting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = saved(make_trainer(weighting))
    trainer = make_trainer("GradOPS")
    trainer.model.load_state_dict(state)
    check_loaded(trainer.model, state)
    said = f"loss_scale, which {weighting} learned, is left out: GradOPS does not use it"
    assert said in capsys.readouterr().out
    assert "loss_scale" in state, "the caller's own is not changed"


@pytest.mark.parametrize(("before", "after"), [("EW", "UW"), ("GradNorm", "UW"), ("UW", "IMTL")])
def test_what_a_weighting_learns_starts_anew_after_another(
    before: str, after: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = saved(make_trainer(before))
    trainer = make_trainer(after)
    fresh = trainer.model.loss_scale.detach().clone()
    trainer.model.load_state_dict(state)
    check_loaded(trainer.model, state, but="loss_scale")
    assert torch.equal(trainer.model.loss_scale, fresh)
    assert f"no loss_scale of {after}, which starts anew" in capsys.readouterr().out
    trainer.train(batches(2), batches(2), epochs=1)
    assert not torch.equal(trainer.model.loss_scale, fresh)


def test_a_weightings_own_comes_back_also_without_metadata() -> None:
    state = saved(make_trainer("UW"))
    for given in (state, dict(state)):
        trainer = make_trainer("UW")
        trainer.model.load_state_dict(given)
        assert torch.equal(trainer.model.loss_scale, state["loss_scale"])


def test_a_whole_trainer_loads_too() -> None:
    state = make_trainer("UW").state_dict()
    trainer = make_trainer("GradOPS")
    trainer.load_state_dict(state)
    check_loaded(trainer.model, {k.removeprefix("model."): v for k, v in state.items()})


def test_recon_loads_its_own(recon: Any) -> None:
    state = saved(recon("one"))
    trainer = recon("one")
    trainer.model.load_state_dict(state)
    check_loaded(trainer.model, state)


@pytest.mark.parametrize("strict", [True, False])
def test_a_split_network_does_not_load_into_a_plain_one(recon: Any, strict: bool) -> None:
    state = saved(recon("one"), train=False)
    with pytest.raises(
        ReconError, match=r"1 task-specific layers \(encoder\.one\).* Build .*--arch Recon"
    ):
        make_trainer("EW").model.load_state_dict(state, strict=strict)


def test_a_plain_network_gives_each_task_a_copy(
    recon: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    state = saved(make_trainer("EW"))
    trainer = recon("two")
    trainer.model.load_state_dict(state)
    own = trainer.model.state_dict()
    for task in ("t0", "t1"):
        assert torch.equal(own[f"encoder.two.tasks.{task}.weight"], state["encoder.two.weight"])
    assert "shares encoder.two; each task gets its own copy" in capsys.readouterr().out


def test_load_path_takes_and_refuses_the_same(recon: Any, tmp_path: Path) -> None:
    plain, split = make_trainer("UW"), recon("two")
    torch.save(plain.model.state_dict(), tmp_path / "plain.pt")
    load_strictly(split.model, tmp_path / "plain.pt")
    own = split.model.state_dict()["encoder.two.tasks.t1.weight"]
    assert torch.equal(own, plain.model.encoder.two.weight)
    torch.save(split.model.state_dict(), tmp_path / "best.pt")
    load_strictly(recon("two").model, tmp_path)
    with pytest.raises(ReconError, match=r"1 task-specific layers \(encoder\.two\)"):
        load_strictly(plain.model, tmp_path)


def test_other_layers_are_named(recon: Any) -> None:
    state = saved(recon("one"), train=False)
    with pytest.raises(
        ReconError, match=r"checkpoint: encoder\.one; only in the network: encoder\.two\."
    ):
        recon("two").model.load_state_dict(state)
    both = saved(recon("one", "two", **_three_layers()), train=False)
    fewer = recon("one", **_three_layers())
    with pytest.raises(ReconError, match=r"checkpoint: encoder\.two; only in the network: none\."):
        fewer.model.load_state_dict(both)


def test_other_tasks_are_named(recon: Any) -> None:
    state = saved(recon("one", tasks=3), train=False)
    with pytest.raises(ReconError, match=r"for the tasks t0, t1, t2, those of this .* t0, t1\."):
        recon("one").model.load_state_dict(state)


def test_another_network_is_torchs_own_error() -> None:
    state = saved(make_trainer("EW"), train=False)
    del state["encoder.one.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) .*encoder\.one\.weight"):
        make_trainer("GradOPS").model.load_state_dict(state)


def test_compilation_changes_nothing(recon: Any) -> None:
    def compiled() -> nn.Module:
        return torch.compile(Encoder(), backend="eager")

    plain, other = make_trainer("EW"), make_trainer("UW", encoder_class=compiled)
    state = saved(other, train=False)
    assert "encoder._orig_mod.one.weight" in state
    plain.model.load_state_dict(state)
    assert torch.equal(plain.model.encoder.one.weight, state["encoder._orig_mod.one.weight"])
    back = saved(plain)
    other.model.load_state_dict(back)
    found = other.model.state_dict()["encoder._orig_mod.two.weight"]
    assert torch.equal(found, back["encoder.two.weight"])
    split = recon("two")
    split.model.load_state_dict(state)
    own = split.model.state_dict()["encoder.two.tasks.t1.bias"]
    assert torch.equal(own, state["encoder._orig_mod.two.bias"])


def _three_layers() -> dict[str, Any]:
    class Three(Encoder):
        def __init__(self) -> None:
            super().__init__()
            self.three = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.three(super().forward(x))

    return {"encoder_class": Three}
