"""The Recon study: one training as it records it, its tables and pictures, and the theorem."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
import copy
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from LibMTL.config import LibMTL_args
from noise_images import write_noise_images

from libmtl_recon import ConflictProfile
from libmtl_recon.problems import multi_fashion_mnist as problem

# LibMTL divides by an accuracy, which may be zero after three steps on noise.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")

TASKS = ("digit", "article")
LAYERS = 41


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a file of the study."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    # A script reads LibMTL's own parser, and adds its flags to it.
    monkeypatch.setattr(problem, "LibMTL_args", copy.deepcopy(LibMTL_args))
    return import_module


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of noise in the files of both data sets."""
    write_noise_images(tmp_path)
    monkeypatch.setenv("LIBMTL_RECON_DATA", str(tmp_path))
    monkeypatch.setattr(problem, "HELD_OUT", 15)


@pytest.fixture
def folder(load: Callable, data: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with one ranking, in which every other training is still to be done."""
    study = load("recon_study")
    training, jobs = load("recon_study_training"), load("recon_study_jobs")
    output = tmp_path / "study"
    flags = "--width 1 --bs 8 --train_size 24 --epochs 1 --steps 2 --parts rankings"
    monkeypatch.setattr(sys, "argv", ["recon_study.py", *flags.split(), "--output", str(output)])
    options = study.parse_args()
    settings = json.loads(study.prepare(options))
    settings |= {"val_size": 10, "test_size": 10}
    (output / "settings.json").write_text(json.dumps(settings), "utf-8")
    scoring = jobs.Job(steps=2)
    training.train(scoring, json.dumps(settings), output)
    record = json.loads((output / "runs" / f"{scoring.name}.json").read_text("utf-8"))
    (output / "profile.json").write_text(json.dumps(record["profile"]), "utf-8")
    return output


def test_a_split_training_is_recorded(load: Callable, folder: Path) -> None:
    jobs, results = load("recon_study_jobs"), load("recon_study_results")
    train = load("recon_study_training").train
    settings = (folder / "settings.json").read_text("utf-8")
    plain, split = jobs.Job("CAGrad"), jobs.Job("CAGrad", "random", seed=1)
    for job in (plain, split):
        train(job, settings, folder)
    by_choice = {t.select: t for t in results.read_trainings(folder) if t.accuracy}
    assert by_choice["none"].parameters < by_choice["random"].parameters
    assert set(by_choice["random"].accuracy) == set(TASKS)
    assert len(by_choice["none"].profile.layer_names) == LAYERS
    assert len(by_choice["random"].profile.layer_names) == LAYERS - results.K
    assert by_choice["random"].profile.steps == 1  # the first of each five


def test_one_task_alone_is_recorded(load: Callable, folder: Path) -> None:
    jobs, results = load("recon_study_jobs"), load("recon_study_results")
    train = load("recon_study_training").train
    train(jobs.Job(task="article"), (folder / "settings.json").read_text("utf-8"), folder)
    (alone,) = (t for t in results.read_trainings(folder) if t.task)
    assert set(alone.accuracy) == {"article"}
    assert alone.profile is None


def made(
    results: ModuleType,
    profile: ConflictProfile,
    select: str,
    seed: int,
    accuracy: dict[str, float],
    *,
    weighting: str = "EW",
    task: str | None = None,
    k: int = 25,
) -> object:
    """A training that ended with these accuracies."""
    own = {"weighting": weighting, "select": select, "k": k, "s": -0.1, "seed": seed}
    return results.Training(
        **own,
        pair="digit+article",
        task=task,
        steps=None,
        parameters=100,
        accuracy=accuracy,
        profile=None if task else profile,
    )


@pytest.fixture
def trainings(load: Callable, folder: Path) -> list:
    """Two seeds: Recon gains 10 % with seed 0 and 20 % with seed 1 over one task alone."""
    results = load("recon_study_results")
    profile = ConflictProfile.from_json((folder / "profile.json").read_text("utf-8"))
    found = []
    for seed in (0, 1):
        alone = {"digit": 0.4 + 0.1 * seed, "article": 0.5}
        for task, accuracy in alone.items():
            found.append(made(results, profile, "none", seed, {task: accuracy}, task=task))
        found.append(made(results, profile, "none", seed, alone))
        gained = {task: (1.1 + 0.1 * seed) * acc for task, acc in alone.items()}
        found.append(made(results, profile, "conflict", seed, gained))
        found.append(made(results, profile, "conflict", seed, alone, k=5))
    return found


def test_gains_are_those_over_the_same_seed(load: Callable, trainings: list) -> None:
    found = load("recon_study_results").Results(trainings)
    assert [found.gain(t) for t in found.pick("EW", "conflict")] == pytest.approx([10, 20])
    assert found.paired("conflict", "none") == pytest.approx(np.array([[10, 20]]))
    assert found.paired("conflict", "random").size == 0


def test_conflicts_are_compared_in_the_layers_that_stay_shared(
    load: Callable, trainings: list
) -> None:
    found = load("recon_study_results").Results(trainings)
    kept = found.pick("EW", "conflict")[0].profile.layer_names
    before, after = found.before_and_after("EW", "conflict", -0.02).T
    assert before == pytest.approx([t.severe(-0.02, kept) for t in found.pick("EW", "none")])
    assert after == pytest.approx([t.severe(-0.02, kept) for t in found.pick("EW", "conflict")])


def test_severe_conflicts_are_counted_below_an_edge(load: Callable, trainings: list) -> None:
    training = trainings[2]
    counts = training.profile.histogram
    below = counts[:, :180].sum() / counts.sum()  # bins of 0.005 from -1: up to -0.1
    layers = training.profile.layer_names
    assert training.severe(-0.1, layers) == pytest.approx(100 * below)
    assert training.severe(1.0, layers[:3]) == pytest.approx(100)
    assert 0 <= training.severe(-0.1) <= training.severe(-0.02) <= 100


def test_the_report_and_the_pictures(load: Callable, folder: Path, trainings: list) -> None:
    report, results = load("recon_study_report"), load("recon_study_results")
    scored = results.read_trainings(folder)
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    (folder / "theorem.json").write_text(
        json.dumps([{"rate": 1e-3, "difference": -2.0, "predicted": -1.0, "condition": 1.0}])
    )
    text = report.write_report(folder, settings, [*scored, *trainings])
    assert "| Recon | 100 | +15.00 ± 7.07 | +15.00 |" in text
    # t(0.975, 1) = 12.706 standard errors of 5; of one weighting there is no spread.
    interval = "+15.00 (-48.53 to +78.53)"
    assert f"| all shared | {interval} | +15.00 | 2 of 2 | +15.00 |" in text
    assert "| 5 | -0.1 | +0.00 ± 0.00 | 100 |" in text
    assert "| 0.001 | 1 of 1 | -2 | 2.0000 (2.0000 to 2.0000) |" in text
    load("recon_study_picture").draw(results.Results(trainings), folder)
    for name in ("methods.png", "dose.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_theorem_4_1_to_first_order(load: Callable) -> None:
    theorem = load("recon_study_theorem")
    torch.manual_seed(0)
    images = torch.rand(8, 1, 36, 36)
    labels = {task: torch.randint(10, (8,)) for task in TASKS}
    layers = ["conv1", "layer1.0.bn1", "fc"]
    found = theorem.one_step(2, [(images, labels)], layers)
    assert all(one["difference"] < 0 for one in found)
    smallest = min(found, key=lambda one: one["rate"])
    assert smallest["difference"] / smallest["predicted"] == pytest.approx(1, abs=0.01)
