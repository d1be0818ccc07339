"""Task gradients of zero, of any length, and dependent ones: what holds for every weighting.

For both LibMTLs: the installed one, and the checkout of its main branch that LIBMTL_MAIN names.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from main_checkout import on_main, said_with_main
from rows_problem import step

# isort: split
import LibMTL.weighting as weightings
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from libmtl_recon.weighting.imtl import impartial
from libmtl_recon.weighting.least_norm import least_norm_weights

FILE = str(Path(__file__))
# Those that weigh the gradients of shared parameters by what they find in them.
OF_GRADIENTS = [
    *("MGDA", "IMTL", "GradNorm", "PCGrad", "CAGrad", "GradVac", "GradOPS"),
    *("Nash_MTL", "Aligned_MTL", "MoCo", "DB_MTL", "ExcessMTL", "FairGrad", "UPGrad"),
]
NAMES = [name for name in OF_GRADIENTS if hasattr(weightings, name)]
# They weigh the losses, so that decoders are weighed along.
WEIGHS_LOSSES = ("Nash_MTL", "ExcessMTL", "FairGrad", "DB_MTL", "IMTL")
PLAIN = torch.tensor([[1.0, 0, 0, 0], [-0.5, 1, 0, 0], [0.2, -0.3, 1, 0]])
SIZES = {
    "plain": (1, 1, 1),
    "one of zero": (1, 0, 1),
    "one of 1e-20": (1, 1e-20, 1),
    "one of 1e-25": (1, 1e-25, 1),
    "one of 1e20": (1, 1e20, 1),
    "of 1e20 and 1e-25": (1e20, 1e-25, 1),
    "all of 1e-25": (1e-25, 1e-25, 1e-25),
    "all of 1e20": (1e20, 1e20, 1e20),
    "all of zero": (0, 0, 0),
}


def rows_of(case: str, tasks: int) -> torch.Tensor:
    rows = PLAIN.double()[:tasks]
    if case == "equal":
        return rows[:1].repeat(tasks, 1)
    if case == "opposite":
        return torch.cat([rows[:1], -rows[:1], rows[2:]])
    return rows * torch.tensor(SIZES[case], dtype=torch.float64)[:tasks, None]


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def libmtls_own(monkeypatch: pytest.MonkeyPatch, in_float64: None) -> None:
    """LibMTL's own code for what it makes of the gradients, with digits and range to spare."""
    for name in NAMES:
        owner = vars(weightings)[name]
        monkeypatch.setattr(owner, "backward", inspect.unwrap(owner.backward))


pytestmark = pytest.mark.filterwarnings("ignore:Nash_MTL")  # that there is no solution


@pytest.mark.parametrize("case", [*SIZES, "equal", "opposite"])
@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_update_is_finite_and_decoders_learn(name: str, tasks: int, case: str) -> None:
    rows = rows_of(case, tasks).float()
    made = step(name, rows)
    assert made.update is not None
    assert torch.isfinite(made.update).all()
    assert np.isfinite(np.asarray(made.weights)).all()
    # Of three dimensions the gradients have: an update lies in their span.
    assert made.update[3] == 0
    for own, row in zip(made.decoders, rows, strict=True):
        assert torch.isfinite(own).all()
        if name not in WEIGHS_LOSSES:
            torch.testing.assert_close(own, row, rtol=1e-6, atol=0)


# LibMTL's own is undefined, or not solved, in the other cases.
DEFINED = ("plain", "one of 1e-20", "one of 1e-25", "one of 1e20", "all of 1e-25", "all of 1e20")
EXACT = [n for n in NAMES if n in ("IMTL", "GradNorm", "PCGrad", "GradVac", "UPGrad")]


@pytest.fixture
def wanted(libmtls_own: None) -> Any:
    """The updates that LibMTL's own code makes, in float64."""
    return {
        (name, tasks, case): step(name, rows_of(case, tasks)).update
        for name in EXACT
        for tasks in (2, 3)
        for case in DEFINED
        # LibMTL's formula for IMTL cancels where lengths differ; see its own test.
        if name != "IMTL" or not case.startswith("one")
    }


def test_it_is_libmtls_own_update_where_that_is_defined(
    wanted: dict[tuple[str, int, str], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    torch.set_default_dtype(torch.float32)
    for (name, tasks, case), update in wanted.items():
        found = step(name, rows_of(case, tasks).float()).update
        assert found is not None
        size = float(update.abs().max())
        torch.testing.assert_close(
            found.double(),
            update,
            rtol=2e-5,
            atol=2e-6 * size,
            msg=lambda text, at=(name, tasks, case): f"{at}: {text}",
        )


def test_libmtls_own_imtl_makes_nan_of_a_gradient_of_zero(libmtls_own: None) -> None:
    update = step("IMTL", rows_of("one of zero", 3)).update
    assert update is not None
    assert bool(update.isnan().any())


@pytest.mark.parametrize("norm", ["none", "l2", "loss", "loss+"])
@pytest.mark.parametrize("case", [*SIZES, "equal", "opposite"])
def test_mgda_has_the_least_norm_of_what_it_normalises(norm: str, case: str) -> None:
    rows = rows_of(case, 3).float()
    made = step("MGDA", rows, mgda_gn=norm)
    exact = rows.double().numpy()
    lengths = np.linalg.norm(exact, axis=1)
    # All losses are 1.
    if norm in ("l2", "loss+"):
        exact = exact / np.where(lengths > 0, lengths, 1)[:, None]
    least = least_norm_weights(exact @ exact.T) @ exact
    assert made.update is not None
    # What is left of the others is of the size of a rounding of theirs in float32, squared.
    longest = np.linalg.norm(exact, axis=1).min()
    np.testing.assert_allclose(made.update.numpy(), least, rtol=1e-5, atol=1e-6 * longest)


def test_mgda_for_two_tasks_keeps_libmtls_weights() -> None:
    for rows, weights in (
        ([[1.0, 0, 0, 0], [0, 0, 0, 0]], [0.001, 0.999]),
        ([[0.0, 0, 0, 0], [1, 0, 0, 0]], [0.999, 0.001]),
        ([[1e20, 0, 0, 0], [0, 1e20, 0, 0]], [0.5, 0.5]),
        ([[1e-25, 0, 0, 0], [0, 1e-25, 0, 0]], [0.5, 0.5]),
        ([[1e-25, 0, 0, 0], [1, 0, 0, 0]], [0.999, 0.001]),
        ([[0.0] * 4, [0.0] * 4], [0.999, 0.001]),
    ):
        made = step("MGDA", torch.tensor(rows))
        np.testing.assert_allclose(np.ravel(made.weights), weights, rtol=1e-5)


@pytest.mark.parametrize("case", [*SIZES, "equal", "opposite"])
@pytest.mark.parametrize("tasks", [2, 3])
def test_cagrads_update_is_no_further_from_the_mean_than_c(case: str, tasks: int) -> None:
    rows = rows_of(case, tasks)
    update = step("CAGrad", rows.float(), calpha=0.5, rescale=0).update
    assert update is not None
    mean = rows.mean(0)
    # The authors' guard makes 1e-4 of a mean of zero.
    limit = 0.5 * float((mean.norm().square() + 1e-8).sqrt()) * (1 + 1e-5)
    assert float((update.double() - mean).norm()) <= limit


@pytest.mark.parametrize("case", [*SIZES, "equal"])
@pytest.mark.parametrize("tasks", [1, 2, 3])
@pytest.mark.skipif("FairGrad" not in NAMES, reason="LibMTL's release has no FairGrad")
def test_fairgrad_solves_its_equation(case: str, tasks: int) -> None:
    rows = rows_of(case, tasks).numpy()
    there = np.linalg.norm(rows, axis=1) > 0
    alike = not case.startswith(("one of 1e", "of 1e"))
    for alpha in (1.0, 2.0) if alike else (1.0,):
        made = step("FairGrad", rows_of(case, tasks).float(), FairGrad_alpha=alpha)
        weights = np.ravel(made.weights)
        assert (weights > 0).all()
        gains = (rows @ (weights @ rows))[there]
        np.testing.assert_allclose(gains, weights[there] ** (-1 / alpha), rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_encoder_lets_the_decoders_learn(name: str) -> None:
    if name == "GradOPS":  # refuses it at the start; see its own tests
        return
    made = step(name, PLAIN[:2], frozen=True)
    assert made.update is None
    for own, row in zip(made.decoders, PLAIN[:2], strict=True):
        factor = float(own @ row / row.square().sum())
        assert factor > 0
        torch.testing.assert_close(own, factor * row)
        if name not in ("FairGrad",):  # whose weights grow where nothing is gained
            assert factor == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("losses", [(0.0, 1.0), (0.0, 0.0)])
def test_gradnorm_goes_on_where_a_loss_was_zero_in_the_first_epoch(
    losses: tuple[float, float],
) -> None:
    rows = torch.zeros(2, 4)
    rows[1, 0] = 2.0
    made = step("GradNorm", rows, losses=losses)
    assert made.update is not None
    assert made.update.tolist() == [2.0, 0, 0, 0]


@pytest.mark.parametrize("norm", ["loss", "loss+"])
def test_mgda_normalises_nothing_by_a_loss_of_zero(norm: str) -> None:
    rows = torch.zeros(3, 4)
    rows[1, 0] = rows[2, 0] = 2.0
    made = step("MGDA", rows, losses=(0.0, 1.0, 1.0), mgda_gn=norm)
    assert np.ravel(made.weights).tolist() == [1, 0, 0]


@given(
    tasks=st.integers(1, 8),
    width=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 3.0, 20.0]),
    zeros=st.integers(0, 2),
)
def test_imtl_projects_alike_onto_all_gradients_that_there_are(
    tasks: int, width: int, seed: int, spread: float, zeros: int
) -> None:
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, width)) * 10 ** rng.uniform(-spread, spread, (tasks, 1))
    gradients[:zeros] = 0
    weights = impartial(torch.from_numpy(gradients @ gradients.T)).numpy()
    assert np.isfinite(weights).all()
    there = np.linalg.norm(gradients, axis=1) > 0
    if not there.any():
        np.testing.assert_allclose(weights, 1 / tasks)
        return
    assert not weights[~there].any()
    assert weights.sum() == pytest.approx(1, rel=1e-6, abs=1e-6 * np.abs(weights).max())
    units = gradients[there] / np.linalg.norm(gradients[there], axis=1, keepdims=True)
    parts = weights[there] * np.linalg.norm(gradients[there], axis=1)
    projections = units @ (parts @ units)
    np.testing.assert_allclose(
        projections, projections.mean(), rtol=0, atol=1e-6 * np.abs(parts).sum()
    )


def test_imtl_shares_parallel_gradients_evenly() -> None:
    gradients = torch.tensor([[1.0, 0], [3, 0], [0, 0]], dtype=torch.float64)
    found = impartial(gradients @ gradients.T)
    torch.testing.assert_close(found, torch.tensor([0.75, 0.25, 0], dtype=torch.float64))


@on_main
def test_all_of_this_holds_for_the_main_branch() -> None:
    said = said_with_main(FILE)
    assert "FairGrad" not in said  # none was left out
