"""The way to Recon with the problems on images, on their samples: minutes, not seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from main_checkout import MAIN, on_main
from torchvision.models import MobileNet_V2_Weights, ResNet18_Weights, mobilenet_v2, resnet18

from libmtl_recon import ConflictProfile, extract_task
from libmtl_recon.cli import main
from libmtl_recon.problems import celeba, cityscapes, nyuv2, pascal_context
from libmtl_recon.problems.samples import write_sample

SCRIPTS = {
    "celeba": celeba,
    "cityscapes": cityscapes,
    "nyuv2": nyuv2,
    "pascal_context": pascal_context,
}
TASKS = {
    "celeba": ["Male", "Young", "Smiling"],
    "cityscapes": ["segmentation", "depth"],
    "nyuv2": ["segmentation", "depth", "normal"],
    "pascal_context": ["semseg", "human_parts", "sal", "normals"],
}
# Flags, and the same for a search.
SMALL = {
    problem: {"width": 0.1, "bs": 2, **more}
    for problem, more in {
        "celeba": {"size": 64, "tasks": TASKS["celeba"]},
        "cityscapes": {},
        "nyuv2": {},
        "pascal_context": {"size": 64, "tasks": TASKS["pascal_context"]},
    }.items()
}

PRETRAINED = {
    "celeba": (resnet18, ResNet18_Weights.IMAGENET1K_V1),
    "pascal_context": (mobilenet_v2, MobileNet_V2_Weights.IMAGENET1K_V1),
}

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("problem", SCRIPTS)]


@pytest.fixture(autouse=True)
def _sample(problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(problem, tmp_path / "data", 8, 0)
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LIBMTL_RECON_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def flags(problem: str, *more: str) -> list[str]:
    small: list[str] = []
    for name, value in SMALL[problem].items():
        small += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return [problem, "--weighting", "EW", *small, *more]


def test_layers_are_scored_and_split(problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--steps", "8", "--out", "p.json", *flags(problem)]) == 0
    profile = ConflictProfile.from_json(Path("p.json").read_text())
    assert profile.tasks == tuple(TASKS[problem])
    split = ["--arch", "Recon", "--recon_k", "5", "--recon_s", "0", "--epochs", "1"]
    assert main(["run", *flags(problem, *split)]) == 0
    assert profile.id in capsys.readouterr().out


def test_a_task_s_network_is_taken_out(problem: str, run) -> None:
    split = ["--arch", "Recon", "--recon_k", "8", "--recon_select", "norms", "--epochs", "1"]
    model = run(SCRIPTS[problem], *flags(problem, *split)[1:]).trainer.model
    images = torch.rand(2, 3, 64, 64)
    together = model.eval()(images)
    for task in TASKS[problem]:
        alone = extract_task(model, task).eval()
        torch.testing.assert_close(alone(images), together[task])


def test_it_is_searched(problem: str) -> None:
    held_out = {} if problem == "celeba" else {"val_size": 2}
    searched = json.dumps({**SMALL[problem], "epochs": 2, **held_out})
    Path("study.yaml").write_text(
        f"script: {problem}\nflags: {searched}\n"
        "trials: 2\nscore: {steps: 4}\nfinalists: {count: 1, seeds: [9]}\nconfirm: [1]\n"
        "metrics: {undefined: leave_out}\nspace: {weighting: [EW, PCGrad], s: [0.0], k: [0, 4]}\n"
    )
    assert main(["search", "study.yaml", "--out", "out"]) == 0
    report = json.loads(Path("out/report.json").read_text())
    assert len(report["gain"]["values"]) == 1


@on_main
def test_it_trains_and_is_extracted_with_the_main_branch(problem: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": MAIN}

    def command(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "libmtl_recon", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]

    split = ["--arch", "Recon", "--recon_k", "4", "--recon_select", "norms", "--epochs", "2"]
    trained = flags(problem, *split, "--save_path", "saved")
    Path("saved").mkdir()
    command("run", *trained)
    task = TASKS[problem][0]
    command("extract", "--task", task, "--out", "one.pt", "saved/best.pt", *trained)
    state = torch.load("one.pt")
    assert not any(".tasks." in name for name in state)
    command("run", *flags(problem, "--epochs", "1", "--mode", "test"))


@pytest.mark.parametrize("size", ["", "-small"])
def test_its_configuration_fits(
    problem: str,
    size: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    if problem in PRETRAINED and not size:  # random weights in the place of ImageNet's
        network, weights = PRETRAINED[problem]
        file = tmp_path / "torch" / "hub" / "checkpoints" / Path(weights.url).name
        file.parent.mkdir(parents=True)
        torch.save(network().state_dict(), file)
    assert main(["search", "check", f"{problem}{size}"]) == 0
    assert "No mistakes found." in capsys.readouterr().out
