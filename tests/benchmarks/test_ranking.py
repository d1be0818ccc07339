"""The tables of the ranking study, on counts made up for a few layers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from libmtl_recon import ConflictProfile
from libmtl_recon.conflicts.grid import BINS
from libmtl_recon.conflicts.layers import Layer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STEPS = 10
LAYERS = (
    Layer("conv1", "Conv2d", ((4, 1, 7, 7),)),
    Layer("bn1", "BatchNorm2d", ((4,), (4,))),
    Layer("fc", "Linear", ((3, 4), (3,))),
)


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ranking

    monkeypatch.setattr(ranking, "AUTHORS", ["bn1", "conv1", "fc"])
    monkeypatch.setattr(ranking, "K", 1)
    return ranking


def profile(*conflicts: int) -> ConflictProfile:
    """Return a profile of two tasks, with these numbers of steps below -0.2 for each layer."""
    counts = np.zeros((1, len(LAYERS), BINS), np.int64)
    counts[0, :, 0], counts[0, :, -1] = conflicts, STEPS - np.array(conflicts)
    undefined = np.zeros((1, len(LAYERS)), np.int64)
    return ConflictProfile(LAYERS, ("a", "b"), counts, undefined, np.array([STEPS]), {})


def test_shares_and_ranks_over_the_seeds(study: ModuleType) -> None:
    lines = study.layer_table([profile(6, 4, 1), profile(2, 8, 1)]).splitlines()[2:]
    assert lines == [
        "| `bn1` | BatchNorm2d | 8 | 60.0 ± 28.3 % | 1–2 | 1 |",
        "| `conv1` | Conv2d | 196 | 40.0 ± 28.3 % | 1–2 | 2 |",
        "| `fc` | Linear | 15 | 10.0 ± 0.0 % | 3–3 | 3 |",
    ]


def test_distances_stand_with_their_spread(study: ModuleType) -> None:
    # conv1, bn1, fc is at distance (1 + 1 + 0) / 3 from the authors'; bn1, conv1, fc at 0.
    table = study.distance_table([profile(6, 4, 1), profile(2, 8, 1), profile(2, 8, 1)])
    lines = table.splitlines()
    assert "| measured, seed 0 | 0.67 | 0 |" in lines
    assert "| measured, seed 1 | 0.00 | 1 |" in lines
    assert "| **measured, mean ± sd** | 0.22 ± 0.38 | 0.7 ± 0.6 |" in lines
    assert "| batch norms first, then network order | 0.00 | 1 |" in lines
    assert "| fewest parameters first | 0.67 | 1 |" in lines
    assert "| network order | 0.67 | 0 |" in lines
    assert "| random (expected) | 0.89 | 0.3 |" in lines
    # t(0.975, 2) = 4.303 times 0.3849 / sqrt(3) around -2/9.
    assert "Closer than batch norms first, 95 % interval (Student's t): -1.18 to +0.73." in lines
    assert "Between two seeds: 0.44 ± 0.38, 0.00 to 0.67." in lines


def test_each_severity_is_measured_by_its_own_ranking(study: ModuleType) -> None:
    assert study.severity_table([profile(6, 4, 1), profile(2, 8, 1)]).splitlines()[-1] == (
        "| 0 | 0.33 ± 0.47 |"
    )
