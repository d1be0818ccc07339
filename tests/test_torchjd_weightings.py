"""Our weightings beside TorchJD's: equal where both are right, and as weightings of TorchJD."""

from __future__ import annotations

import doctest
import importlib
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchjd import aggregation
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix, QuadprogProjector

from libmtl_recon import UsageError
from libmtl_recon.torchjd import (
    FunctionAggregator,
    FunctionWeighting,
    NashMTLWeighting,
    gramian_weights,
)
from libmtl_recon.weighting import (
    GradVac,
    NashMTL,
    aligned_mtl_weights,
    cagrad_weights,
    fairgrad_weights,
    gradops_weights,
    imtl_g_weights,
    mgda_weights,
    nash_mtl_weights,
    pcgrad_weights,
    upgrad_weights,
)


def draw(seed: int, tasks: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, 12, dtype=torch.float64, generator=generator)
    return rows - 0.4 * torch.randn(12, dtype=torch.float64, generator=generator)


def theirs(name: str, *args: Any, **kwargs: Any) -> Weighting[PSDMatrix]:
    found: Weighting[PSDMatrix] = getattr(aggregation, f"{name}Weighting")(*args, **kwargs)
    return found


def aligned_mean(gramian: Any) -> Tensor:
    """TorchJD takes the mean of the aligned gradients, the paper's code their sum."""
    return aligned_mtl_weights(gramian, preference=[1 / len(gramian)] * len(gramian))


EXACT = QuadprogProjector(norm_eps=0.0, reg_eps=1e-12)
# Ours, theirs, and how closely their solvers find it.
PAIRS: dict[str, tuple[Callable[[Any], Tensor], Callable[[], Weighting[PSDMatrix]], float]] = {
    "AlignedMTL": (aligned_mean, partial(theirs, "AlignedMTL"), 1e-9),
    "CAGrad": (partial(cagrad_weights, c=0.7), partial(theirs, "CAGrad", c=0.7), 1e-4),
    "FairGrad": (
        partial(fairgrad_weights, alpha=2.0),
        *(partial(theirs, "FairGrad", alpha=2.0), 1e-4),
    ),
    "IMTLG": (imtl_g_weights, partial(theirs, "IMTLG"), 1e-9),
    "MGDA": (mgda_weights, partial(theirs, "MGDA", epsilon=1e-7, max_iters=20_000), 1e-3),
    "PCGrad": (pcgrad_weights, partial(theirs, "PCGrad"), 1e-12),
    "UPGrad": (upgrad_weights, partial(theirs, "UPGrad", projector=EXACT), 1e-6),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("seed", range(5))
def test_regular_gradients_have_the_same_weights(name: str, seed: int) -> None:
    ours, make, close = PAIRS[name]
    if name == "CAGrad":
        for package in ("cvxpy", "clarabel"):
            pytest.importorskip(package, reason=f"TorchJD's CAGrad needs {package}")
    rows = draw(seed)
    gramian = rows @ rows.T
    torch.manual_seed(seed)
    wanted = make()(gramian)
    torch.manual_seed(seed)
    torch.testing.assert_close(ours(gramian), wanted, rtol=close, atol=close)


def test_gradvac_is_theirs_step_by_step() -> None:
    ours, other = GradVac(0.3, guard=1e-8), theirs("GradVac", beta=0.3)
    for step in range(6):
        rows = draw(step, 3)
        torch.manual_seed(step)
        # TorchJD draws from a task's others, in their order; three tasks have two.
        wanted = other(rows @ rows.T)
        gaps = {}
        for seed in range(40):
            torch.manual_seed(seed)
            trial = GradVac(0.3, guard=1e-8)
            trial.load_state_dict(ours.state_dict())
            weights = trial.weights(rows @ rows.T)
            assert trial.targets is not None
            apart = torch.stack([weights - wanted, *(trial.targets - other._phi_t)])
            gaps[trial] = float(apart.abs().max())
        ours = min(gaps, key=lambda trial: gaps[trial])
        assert gaps[ours] < 1e-9


# Where TorchJD 0.18 has other weights: what is right.


def test_opposite_gradients_have_impartial_weights() -> None:
    rows = torch.tensor([[0.3, 0.7], [-0.3, -0.7]], dtype=torch.float64)
    found = imtl_g_weights(rows @ rows.T)
    torch.testing.assert_close(found, torch.full((2,), 0.5, dtype=torch.float64))
    rows[1] *= 3
    update = imtl_g_weights(rows @ rows.T) @ rows
    torch.testing.assert_close(update, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1e-2, 1e-3, 1e-8])
def test_short_gradients_are_weighed_as_long_ones(length: float) -> None:
    rows = torch.tensor([[1.0, 0.0], [-2.0, 1.0]], dtype=torch.float64)
    short = length * rows
    for ours in (upgrad_weights, partial(cagrad_weights, c=0.4)):
        torch.testing.assert_close(ours(short @ short.T), ours(rows @ rows.T), rtol=1e-9, atol=0)
    update = upgrad_weights(short @ short.T) @ short
    assert (rows @ update).min() > 0


FUNCTIONS: list[Callable[[Any], Tensor]] = [
    *(aligned_mtl_weights, cagrad_weights, fairgrad_weights, gradops_weights, imtl_g_weights),
    *(mgda_weights, nash_mtl_weights, upgrad_weights),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_is_a_weighting_and_an_aggregator(
    function: Callable[[Any], Tensor], dtype: torch.dtype
) -> None:
    rows = draw(3).to(dtype)
    wide = rows.double()
    wanted = function(wide @ wide.T)
    weighting, aggregator = FunctionWeighting(function), FunctionAggregator(function)
    assert weighting((wide @ wide.T).to(dtype)).dtype == dtype
    torch.testing.assert_close(weighting(wide @ wide.T), wanted, rtol=0, atol=0)
    torch.testing.assert_close(gramian_weights(weighting, wide @ wide.T), wanted, rtol=0, atol=0)
    # The Gramian is taken in float64, also of short gradients.
    torch.testing.assert_close(aggregator(rows), (wanted @ wide).to(dtype), rtol=1e-6, atol=1e-6)
    assert repr(aggregator) == f"FunctionAggregator({function.__name__})"
    again = pickle.loads(pickle.dumps(aggregator))
    torch.testing.assert_close(again(rows), aggregator(rows), rtol=0, atol=0)


def test_an_object_keeps_its_state_until_it_is_reset() -> None:
    rows = draw(3, 3)
    aggregator = FunctionAggregator(NashMTL(update_weights_every=3, max_norm=None))
    first = aggregator(rows)
    weights = nash_mtl_weights(rows @ rows.T)
    torch.testing.assert_close(first, weights @ rows)
    other = draw(4, 3)
    torch.testing.assert_close(aggregator(other), weights @ other)
    aggregator.reset()
    torch.testing.assert_close(aggregator(other), nash_mtl_weights(other @ other.T) @ other)
    FunctionWeighting(gradops_weights).reset()  # has none


def test_nash_mtl_needs_no_solver() -> None:
    weighting = NashMTLWeighting(max_norm=None)
    rows = draw(5)
    found = gramian_weights(weighting, rows @ rows.T)
    torch.testing.assert_close(rows @ (found @ rows), 1 / found, rtol=1e-7, atol=0)
    limited = FunctionAggregator(NashMTLWeighting())
    assert float(limited(rows).norm()) == pytest.approx(1, rel=1e-7)
    assert repr(weighting) == "NashMTLWeighting(update_weights_every=1, max_norm=None)"


@pytest.mark.parametrize("given", [None, 3, GradVac, theirs("MGDA"), np.ones(2)])
def test_what_does_not_weigh_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match=r"^weights must be a function of the Gramian"):
        FunctionWeighting(given)


@pytest.mark.parametrize("name", ["functions", "gramians"])
def test_the_examples_in_docstrings_run(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"libmtl_recon.torchjd.{name}"))
    assert (found.failed, found.attempted > 3) == (0, True)
