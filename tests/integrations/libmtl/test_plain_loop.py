"""A plain loop's profile is the one that scoring a LibMTL script of the same problem makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from libmtl_recon import ConflictProbe, ProfileCache
from libmtl_recon.conflicts.fingerprint import fingerprint
from libmtl_recon.profiles.cache import read_profile
from libmtl_recon.profiles.selection import select_layers

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "plain_loop.py"
SCRIPT = ROOT / "tests" / "scripts" / "plain_loop.py"


@pytest.fixture
def example() -> ModuleType:
    module = ModuleType("plain_loop")
    exec(compile(EXAMPLE.read_text(encoding="utf-8"), EXAMPLE, "exec"), vars(module))
    return module


@pytest.mark.usefixtures("float64_on_the_cpu")
def test_counts_are_those_of_the_command_that_scores(example: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = example.Network()
    probe = ConflictProbe(network, example.TASKS)
    example.train(network, 1, probe)
    found = probe.profile()

    words = ["--weighting", "EW", "--optim", "sgd", "--lr", "0.05", "--momentum", "0.9"]
    words += ["--weight_decay", "0", "--example", str(EXAMPLE), "--epochs", "1"]
    command = [sys.executable, "-m", "libmtl_recon", "score", "--score-until-stable", "off"]
    done = subprocess.run(
        [*command, "--steps", "30", "--out", "scored.json", str(SCRIPT), *words],
        cwd=tmp_path,
        env=os.environ | {"LIBMTL_RECON_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    scored = read_profile(tmp_path / "scored.json")

    assert found.steps == scored.steps == 30
    assert found.architecture == scored.architecture
    assert fingerprint(found.architecture) == fingerprint(scored.architecture)
    assert found.tasks == scored.tasks
    assert (found.counts == scored.counts).all()
    assert (found.undefined == scored.undefined).all()
    assert (found.block_steps == scored.block_steps).all()
    assert found.whole is not None
    assert (found.whole == scored.whole).all()
    assert found.histogram[:, :180].sum() > 30  # some conflict, in many a way

    # So it is found for the layers of that script's network.
    id = ProfileCache(tmp_path / "cache").save(found)
    chosen = select_layers(
        scored.architecture, 2, -0.1, source=id, cache=ProfileCache(tmp_path / "cache")
    )
    assert list(chosen.names) == scored.layers(S=-0.1, K=2)


def test_the_example_counts_splits_and_trains_again(
    example: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(example, "BATCH", 250)
    example.main(["--epochs", "2", "--out", str(tmp_path / "conflicts.png")])
    out = capsys.readouterr().out
    assert "12 steps." in out
    assert "12 steps are too few" in out
    (entry,) = ProfileCache().list()
    assert f"Kept as profile {entry.id}." in out
    assert entry.profile.layer_names == ("conv1", "norm1", "conv2", "norm2", "linear")
    assert f"{' and '.join(entry.profile.layers(S=-0.1, K=2))} split" in out
    assert out.count("%") == 5 + 4
    assert (tmp_path / "conflicts.png").stat().st_size > 10_000
