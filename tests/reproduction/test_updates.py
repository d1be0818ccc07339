"""The updates of Figures 1 and 3 of the GradOPS paper, and the commands that draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.optimize import minimize_scalar

from libmtl_recon import UsageError
from libmtl_recon.cli import main
from libmtl_recon.cli.reproduce_pictures import _IN_PLANE, _IN_SPACE, _vectors
from libmtl_recon.problems.toy2d_landscape import losses
from libmtl_recon.reproduction.updates import (
    Array,
    Update,
    _update,
    check_gradients,
    three_tasks,
    two_tasks,
)

IN_SPACE = np.array(_vectors(_IN_SPACE))
IN_PLANE = np.array(_vectors(_IN_PLANE))
gradients = st.integers(0, 100_000).map(
    lambda seed: np.random.default_rng(seed).normal(size=(3, 3))
)


def by_gram_schmidt(gradients: Array) -> Array:
    """The sum of the g'ᵢ of Algorithm 1, by the orthogonal basis of Eq. 1 and by Eq. 2."""
    total = np.zeros(gradients.shape[1])
    for i, own in enumerate(gradients):
        basis: list[Array] = []
        for j, other in enumerate(gradients):
            if j != i:
                basis.append(other - sum((u @ other) / (u @ u) * u for u in basis))
        conflict = any(own @ other < 0 for j, other in enumerate(gradients) if j != i)
        total += own - sum((u @ own) / (u @ u) * u for u in basis) if conflict else own
    return total


def by_surgery(gradients: Array, order: list[int]) -> Array:
    """PCGrad's Algorithm 1 with one order for all tasks, vector by vector."""
    total = np.zeros(gradients.shape[1])
    for i, own in enumerate(gradients):
        found = own.copy()
        for j in order:
            if j != i and found @ gradients[j] < 0:
                found -= (found @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
        total += found
    return total


def named(updates: list[Update]) -> dict[str, Update]:
    return {one.method: one for one in updates}


def test_the_caption_of_figure_1_holds_for_the_default() -> None:
    found = named(three_tasks(IN_SPACE))
    assert {name: one.conflicts for name, one in found.items()} == {
        "GD": (2,),
        "PCGrad [1, 2, 3]": (1,),
        "PCGrad [3, 2, 1]": (2,),
        "GradOPS": (),
    }
    modified = found["GradOPS"].modified
    assert modified is not None
    assert modified[0] == pytest.approx([0, 0, 2], abs=1e-12)  # as the figure labels g'1
    assert modified[0] @ IN_SPACE[1:].T == pytest.approx(0, abs=1e-12)
    assert (modified @ IN_SPACE.T).min() > -1e-12


@given(gradients)
def test_updates_are_those_of_the_algorithms(gradients: Array) -> None:
    found = [one.update for one in three_tasks(gradients)]
    expected = [
        gradients.sum(axis=0),
        by_surgery(gradients, [0, 1, 2]),
        by_surgery(gradients, [2, 1, 0]),
        by_gram_schmidt(gradients),
    ]
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, rel=1e-6, abs=1e-6)


@given(gradients)
def test_conflicts_are_negative_dot_products_and_gradops_has_none(gradients: Array) -> None:
    *others, last = three_tasks(gradients)
    for one in others:
        against = tuple(np.flatnonzero(gradients @ one.update < -1e-9).tolist())
        assert set(against) <= set(one.conflicts)
        assert all(gradients[task] @ one.update < 0 for task in one.conflicts)
    assert last.conflicts == ()


def test_the_claims_of_figure_3_hold_for_the_default() -> None:
    found = named(two_tasks(IN_PLANE, [-5.0, -2.0, 0.0, 2.0]))
    first, second = IN_PLANE
    assert found["GD"].conflicts == (0,)
    assert all(not one.conflicts for name, one in found.items() if name != "GD")
    # MGDA: perpendicular to the dashed line.
    assert found["MGDA"].update @ (first - second) == pytest.approx(0, abs=1e-9)
    # IMTL-G: equal projections.
    lengths = np.linalg.norm(IN_PLANE, axis=1)
    own = IN_PLANE @ found["IMTL-G"].update / lengths
    assert own[0] == pytest.approx(own[1])
    # PCGrad is GradOPS with α = 0.
    assert found["PCGrad [1, 2]"].update == pytest.approx(found["GradOPS"].update)
    # α moves the update between g'1 and g'2.
    modified = found["GradOPS"].modified
    assert modified is not None

    def angle(vector: Array) -> float:
        return float(np.arctan2(vector[1], vector[0]))

    names = ("GradOPS α=2", "GradOPS", "GradOPS α=-2", "GradOPS α=-5")
    angles = [angle(found[name].update) for name in names]
    assert angle(modified[1]) < angles[0] < angles[1] < angles[2] < angles[3] < angle(modified[0])


def test_a_dot_product_of_rounding_is_no_conflict() -> None:
    update = np.array([1.0, 0.0])
    tiny = np.array([[-1e-14, 1.0], [-1e-9, 1.0]])
    assert _update("any", tiny, update).conflicts == (1,)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ([[1.0, 2.0]], "2 to 6 vectors of 2 numbers"),
        ([[1.0, 2.0], [1.0]], "2 to 6 vectors of 2 numbers"),
        ([[1.0, 2.0, 3.0]] * 2, "2 to 6 vectors of 2 numbers"),
        ([[1.0, 2.0]] * 7, "2 to 6 vectors of 2 numbers"),
        ([[1.0, 2.0], [0.0, 0.0]], "lengths are from 0.1 to 10,000"),
        ([[1.0, 2.0], [0.06, 0.07]], "lengths are from 0.1 to 10,000"),
        ([[1.0, 2.0], [1e200, 1.0]], "lengths are from 0.1 to 10,000"),
        ([[1.0, 2.0], [float("nan"), 0.0]], "finite numbers"),
    ],
)
def test_what_are_no_gradients_is_refused(given: list[list[float]], rule: str) -> None:
    with pytest.raises(UsageError, match=f"gradients must be .*{rule}"):
        check_gradients(given, 2)


def drawn(file: Path) -> bool:
    picture = imread(file)
    return min(picture.shape[:2]) > 300 and float(picture[..., :3].std()) > 0.02


def test_projections_prints_who_conflicts_and_draws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "one.png"
    assert main(["reproduce", "projections", "--out", str(file)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "PCGrad [1, 2, 3] (-0.51, -1.37, 2.33) 8.43 -1.55 0.18 g2" in lines
    assert "GradOPS (0.30, 0.39, 2.69) 4.00 0.29 0.11 none" in lines
    assert drawn(file)


def test_directions_takes_gradients_and_alphas(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "two.png"
    words = ["reproduce", "directions", "--gradients=-1,0; 1,1", "--alphas=0,-1,0"]
    assert main([*words, "--out", str(file)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line.partition(" (")[0] for line in lines if "(" in line] == [
        *("GD", "MGDA", "IMTL-G", "PCGrad [1, 2]", "GradOPS", "GradOPS α=-1"),
    ]
    assert drawn(file)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["projections", "--gradients=1,2;3,4"], "--gradients must be 2 to 6 vectors of 3"),
        (["projections", "--gradients=1,2,x"], "must be a comma-separated list of numbers"),
        (["directions", "--alphas=nan"], "--alphas must be a finite number"),
        (["landscape", "--out", "x.gif"], "--out must be a file name that ends in"),
    ],
)
def test_mistakes_are_said(capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    try:
        status = main(["reproduce", *words])
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert said in capsys.readouterr().err


def test_landscape_says_where_the_losses_are_lowest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "surfaces.png"
    assert main(["reproduce", "landscape", "--out", str(file)]) == 0
    # On the line through the bowl's middle, where the other task's loss plays no part.
    lowest = minimize_scalar(
        lambda y: losses(np.array([[7.0, y]]))[0, 0], bounds=(-10, -6), method="bounded"
    ).x
    out = capsys.readouterr().out
    assert f"The loss of task 1 is lowest at (7.00, {lowest:.2f})." in out
    assert f"The loss of task 2 is lowest at (-7.00, {lowest:.2f})." in out
    assert drawn(file)
