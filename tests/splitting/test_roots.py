"""Parameters that a network holds itself (class tokens, positions) have a name like any layer."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_networks import image, vit
from test_libmtl import TASKS, make
from torch import Tensor, nn

from libmtl_recon import (
    ConflictProfile,
    ProfileCache,
    UsageError,
    extract_task,
    split_layers,
)
from libmtl_recon.cli import main
from libmtl_recon.conflicts.layers import ROOT, layers_of
from libmtl_recon.integrations.libmtl.hooks import trainer_hooks
from libmtl_recon.integrations.libmtl.scoring import ScoringHook
from libmtl_recon.splitting import task_parameters


class Tokens(nn.Module):
    """A small ViT in the way of timm: tokens and positions are the encoder's own."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, 5, 8))
        self.embed, self.norm = nn.Linear(5, 8), nn.LayerNorm(8)
        self.mix, self.last = nn.Linear(5, 5), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.view(len(x), 4, 5))
        x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1) + self.pos_embed
        x = x + self.mix(self.norm(x).mT).mT
        return self.last(torch.tanh(x[:, 0]))


def batches() -> list[Any]:
    generator = torch.Generator().manual_seed(3)
    draws = [torch.randn(16, 20, generator=generator) for _ in range(4)]
    return [(x, {task: (x[:, i] > 0).long() for i, task in enumerate(TASKS)}) for x in draws]


def build(folder: Path, source: str | None, **changes: Any) -> Any:
    arch_args = {"recon_layers": source, "recon_k": 1, **changes.pop("arch_args", {})}
    return make(folder, encoder_class=Tokens, arch_args=arch_args, **changes)


def test_is_scored_shown_exported_chosen_and_trained_under_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    hook = ScoringHook()
    with trainer_hooks(hook):
        build(tmp_path, None, arch="HPS").train(batches(), batches(), epochs=1)
    profile = hook.profile()
    assert isinstance(profile, ConflictProfile)
    names = [layer.name for layer in layers_of(Tokens())]
    assert names == [ROOT, "embed", "norm", "mix", "last"]
    assert list(profile.layer_names) == names
    saved = ProfileCache().save(profile)
    exported = tmp_path / "exported.json"
    assert main(["layers", "export", saved, str(exported)]) == 0
    assert f'"{ROOT}"' in exported.read_text()
    capsys.readouterr()
    assert main(["layers", "show", saved, "--s", "0"]) == 0
    assert ROOT in capsys.readouterr().out
    # As versions before wrote it.
    old = tmp_path / "old.json"
    old.write_text(exported.read_text().replace(f'"{ROOT}"', '""'))
    read = ConflictProfile.from_json(old.read_text(), "old.json")
    assert (read.architecture, read.scores(0.0)) == (profile.architecture, profile.scores(0.0))
    files = {"scores": {ROOT: 3, "last": 1}, "list": [ROOT, "last"]}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    worst = {f"{n}.json" for n in files}
    for source in (ROOT, f"{ROOT},last", *(str(tmp_path / file) for file in sorted(worst))):
        model = build(tmp_path, source).model
        keys = [key for key in model.state_dict() if ".tasks." in key]
        own = [f"encoder.tasks.{t}.{n}" for t in TASKS for n in ("cls_token", "pos_embed")]
        assert keys == own
        assert f"\t{ROOT}" in capsys.readouterr().out
    for source in (str(exported), str(old), saved, None):
        model = build(tmp_path, source, arch_args={"recon_k": 4, "recon_s": 0.0}).model
        found = {n.rpartition(".")[0] or ROOT for n in task_parameters(model.encoder, "a")}
        assert found == set(profile.layers(0.0, 4))


def test_trains_and_is_taken_out(tmp_path: Path) -> None:
    trainer = build(tmp_path, ROOT, weighting="GradOPS")
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train(batches(), batches(), epochs=1)
    assert not [n for n, p in trainer.model.named_parameters() if torch.equal(p, before[n])]
    x = batches()[0][0]
    for task in TASKS:
        found: Any = extract_task(trainer.model, task)
        assert list(found.encoder.state_dict()) == list(Tokens().state_dict())
        assert torch.equal(found(x), trainer.model(x)[task])
    again = build(tmp_path, ROOT).model.eval()
    again.load_state_dict(trainer.model.state_dict())
    assert torch.equal(again(x)["b"], trainer.model(x)["b"])
    plain = build(tmp_path, None, arch="HPS").model
    again.load_state_dict(plain.state_dict())
    assert torch.equal(again(x)["b"], plain(x)["b"])


def test_messages_name_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\(got '\(root\)'\).*It contains 0"):
        split_layers(nn.Sequential(nn.Linear(2, 2)), [ROOT], ["a", "b"])
    with pytest.raises(UsageError, match=r"reset_parameters.*\(got '\(root\)'\)"):
        build(tmp_path, ROOT, arch_args={"recon_init": "fresh"})
    with pytest.raises(UsageError, match=r"layers are \(root\), embed"):
        build(tmp_path, "root,last")
    network: Any = Tokens()
    network.embed.bias = nn.Parameter(torch.zeros(8))
    network.own = network.embed.bias
    with pytest.raises(UsageError, match=r"It shares 'own' with '\(root\)'"):
        split_layers(network, ["embed"], ["a", "b"])


def test_torchs_path_of_the_root_is_taken_too() -> None:
    split = split_layers(vit(), ["", "heads.head"], ["a", "b"])
    assert "tasks.a.class_token" in split.state_dict()
    assert "heads.head.tasks.b.bias" in split.state_dict()
    assert torch.equal(split(image()).parts[1], vit()(image()))
