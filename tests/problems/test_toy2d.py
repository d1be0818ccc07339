"""The plane of `toy2d`: its losses and front, the closed forms, the paths, and the command."""

from __future__ import annotations

import libmtl_recon  # noqa: F401  # first, so that LibMTL loads on today's torch

# isort: split
from pathlib import Path

import LibMTL.weighting as weightings
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from LibMTL.architecture import HPS
from torch import Tensor, nn

from libmtl_recon import ReconError, TrainerHook, gradops_weights, run_script
from libmtl_recon.problems import toy2d
from libmtl_recon.problems import toy2d_methods as methods
from libmtl_recon.problems.toy2d_landscape import front, gradients, losses

points = st.integers(0, 10_000).map(
    lambda seed: np.random.default_rng(seed).uniform(-10.5, 10.5, size=(12, 2))
)


def published(x1: Tensor, x2: Tensor) -> Tensor:
    """CAGrad's illustrative example, formula by formula, ``[N, 2]``."""
    f1 = torch.log(torch.clamp((0.5 * (-x1 - 7) - torch.tanh(-x2)).abs(), min=0.000005)) + 6
    f2 = torch.log(torch.clamp((0.5 * (-x1 + 3) + torch.tanh(-x2) + 2).abs(), min=0.000005)) + 6
    g1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    g2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    c1 = torch.clamp(torch.tanh(0.5 * x2), min=0)
    c2 = torch.clamp(torch.tanh(-0.5 * x2), min=0)
    return torch.stack([c1 * f1 + c2 * g1, c1 * f2 + c2 * g2], dim=1)


def gramians(where: np.ndarray) -> np.ndarray:
    task = gradients(where)
    return task @ task.transpose(0, 2, 1)


@settings(max_examples=50, deadline=None)
@given(points)
def test_the_losses_and_their_gradients_are_cagrad_s(where: np.ndarray) -> None:
    x = torch.from_numpy(where).requires_grad_()
    expected = published(*x.unbind(1))
    np.testing.assert_allclose(losses(where), expected.detach(), rtol=1e-12)
    for task in range(2):
        (slope,) = torch.autograd.grad(expected[:, task].sum(), x, retain_graph=True)
        np.testing.assert_allclose(gradients(where)[:, task], slope, rtol=1e-9, atol=1e-12)


def test_on_the_front_the_gradients_are_opposite() -> None:
    best = front(101)
    assert best[0, 0] == -7
    assert best[-1, 0] == 7
    assert best[50] == pytest.approx([0, -8.36], abs=0.01)
    task = gradients(best[1:-1])
    unit = task / np.linalg.norm(task, axis=2, keepdims=True)
    np.testing.assert_allclose(unit[:, 0], -unit[:, 1], atol=1e-7)
    # No point of the plane is better for both tasks than one of these.
    line = np.linspace(-10, 10, 101)
    everywhere = losses(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2))
    worse = (everywhere[:, None] > losses(best)[None] - 1e-9).any(axis=-1)
    assert worse.all()


@settings(max_examples=50, deadline=None)
@given(points, st.sampled_from([-10.0, -5.0, -2.0, -1.0, 0.0, 0.5, 3.0]))
def test_the_closed_form_of_gradops_is_gradops(where: np.ndarray, alpha: float) -> None:
    found = methods.gradops(gramians(where), alpha)
    for weights, gramian in zip(found, gramians(where), strict=True):
        expected = gradops_weights(torch.from_numpy(gramian), alpha)
        np.testing.assert_allclose(weights, expected, rtol=1e-6, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(points)
def test_gradops_contains_other_methods_where_gradients_conflict(where: np.ndarray) -> None:
    """What docs/gradops.md says of two tasks."""
    every = gramians(where)
    np.testing.assert_allclose(methods.gradops(every, 0.0), methods.pcgrad(every), rtol=1e-12)
    conflict = every[every[:, 0, 1] < 0]
    for alpha, same in ((-1.0, methods.imtl_g), (-2.0, methods.mgda)):
        ours, theirs = methods.gradops(conflict, alpha), same(conflict)
        ours, theirs = (w / w.sum(axis=1, keepdims=True) for w in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)


class Place(nn.Module):
    """An encoder that is nothing but a place in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(2))


CLASSES = {
    "EW": (methods.gd, {}),
    "PCGrad": (methods.pcgrad, {}),
    "MGDA": (methods.mgda, {"mgda_gn": "none"}),
    "IMTL": (methods.imtl_g, {}),
    "CAGrad": (methods.cagrad, {"calpha": methods.CAGRAD_C, "rescale": 0}),
    "GradOPS": (lambda gramian: methods.gradops(gramian, -2.0), {"gradops_alpha": -2.0}),
}


@pytest.mark.parametrize("name", CLASSES)
def test_libmtl_s_own_classes_move_alike(name: str) -> None:
    closed, arguments = CLASSES[name]

    class Model(HPS, getattr(weightings, name)):
        pass

    tasks = ["one", "two"]
    decoders = nn.ModuleDict({task: nn.Identity() for task in tasks})
    model = Model(tasks, Place, decoders, False, False, torch.device("cpu"))
    model.init_param()
    where = np.random.default_rng(1).uniform(-10, 10, size=(30, 2))
    weights = closed(gramians(where))
    expected = (weights[:, None] @ gradients(where))[:, 0]
    for point, update in zip(where, expected, strict=True):
        with torch.no_grad():
            model.encoder.place.copy_(torch.from_numpy(point))
        model.zero_grad(set_to_none=False)
        model.backward(published(*model.encoder.place[:, None])[0], **arguments)
        found = model.encoder.place.grad.numpy()
        # MGDA's class stops 0.001 before the ends of its segment; CAGrad's solver is approximate.
        scale = np.linalg.norm(gradients(point[None])[0], axis=1).max()
        np.testing.assert_allclose(found, update, rtol=0, atol=2e-3 * scale)


def test_gd_gets_stuck_and_gradops_does_not() -> None:
    alphas = (-5.0, -2.0, 0.0)
    paths = toy2d.follow(alphas, steps=20_000, lr=4e-3, repeats=1)
    assert paths.at_front("GD") == [0, 1, 0]
    for alpha in alphas:
        assert paths.at_front(toy2d.title(alpha)) == [1, 1, 1]
    said = toy2d.claims(paths, alphas)
    assert "two starts: true (top left, top right)" in said[0]
    assert "for every α: true" in said[1]
    # Where α is 0 GradOPS is PCGrad, up to what the valleys make of rounding.
    assert paths.place("PCGrad", 1) == pytest.approx(paths.place(toy2d.title(0.0), 1), abs=1e-6)
    assert "stuck near" in toy2d.table(paths).splitlines()[2]


@pytest.mark.slow
def test_the_picture_of_the_documentation() -> None:
    paths = toy2d.follow(toy2d.ALPHAS, steps=70_000, lr=1e-3, repeats=8)
    said = toy2d.claims(paths, toy2d.ALPHAS)
    assert "two starts: true" in said[0]
    assert "for every α: true" in said[1]
    # Near, on a front that is 14 long; MGDA is the nearest to both (docs/results/toy2d.md).
    right = 2
    assert abs(paths.place("GradOPS α=-2", right) - paths.place("IMTL-G", right)) < 1.2
    assert abs(paths.place("GradOPS α=-5", right) - paths.place("MGDA", right)) < 1.6
    assert "MGDA: true" in said[3]


def test_a_closed_form_that_is_wrong_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "gradops", lambda gramian, alpha: methods.gd(gramian))
    with pytest.raises(ReconError, match="report it"):
        toy2d.compare(-1.0, np.array([[-8.5, 7.5], [3.0, -4.0]]))


def test_the_command_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.png"
    arguments = ["--alphas", "-3", "0", "--steps", "30", "--repeats", "2", "--output", str(file)]
    assert run_script("toy2d", arguments) == 0
    out = capsys.readouterr().out
    for part in ("| GD |", "| GradOPS α=-3 |", "- GD gets stuck", str(file)):
        assert part in out
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--steps", "0"], 2, "must be a whole number from 1 up"),
        (["--lr", "nan"], 2, "must be a finite number above 0"),
        (["--alphas", "inf"], 2, "must be a finite number"),
        (["--output", "p.gif"], 2, "must be a file name that ends in"),
        (["--weighting", "EW"], 2, "unrecognized arguments"),
    ],
)
def test_bad_arguments_are_explained(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    assert run_script("toy2d", arguments) == status
    assert says in capsys.readouterr().err


def test_it_cannot_be_scored(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("toy2d", hooks=[TrainerHook()]) == 2
    assert "must be a script that trains with LibMTL's Trainer" in capsys.readouterr().err
